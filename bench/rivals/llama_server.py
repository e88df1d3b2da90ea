"""llama-server of llama.cpp, built from the source that llama-cpp-python carries, on the models converted to GGUF."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from contest.contender import GREEDY, Order, Served
from contest.processes import Failed, free_port, running, wait_for_health
from contest.targets import LLAMA
from contest.workshop import FOLDER, LOGS, environment, say, shell

RELEASE = "llama_cpp_python-0.3.36"
_HERE = FOLDER / "rivals" / "llama-server"
_SOURCE = _HERE / "source"
_LLAMA = _SOURCE / "vendor" / "llama.cpp"
_PROGRAM = _HERE / "build" / "bin" / "llama-server"
_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", "BUILD_SHARED_LIBS=OFF", "LLAMA_USE_PREBUILT_UI=OFF",
    "LLAMA_OPENSSL=OFF", "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF",
)  # fmt: skip
_TENSORS = {"bf16": "bf16", "int8": "q8_0"}


class LlamaServer:
    name = LLAMA
    version = f"llama-server of {RELEASE}, 16 slots for many clients, else one"
    starts = 5

    def prepare(self, orders: Sequence[Order]) -> None:
        if not _PROGRAM.exists():
            _build()
        for order in orders:
            _converted(order)

    def suited(self, order: Order) -> Order:
        return order

    @contextmanager
    def serve(self, order: Order) -> Iterator[Served]:
        if order.adapters:
            raise Failed("it computes requests with different adapters one after the other; not measured here")
        port, log = free_port(), LOGS / "llama-server.log"
        cores = str(os.cpu_count())
        command: list[str | Path] = [
            _PROGRAM, "-m", _converted(order), "--host", "127.0.0.1",
            "--port", str(port), "-np", str(order.clients), "-kvu", "-c", str(8192 + 512 * order.clients),
            "-t", cores, "-tb", cores, "--offline",
        ]  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        with running(command, log) as process:
            wait_for_health(process, log, f"{address}/health", 120)
            yield Served(address, ("base",), {**GREEDY, "cache_prompt": True}, pids=lambda: [process.pid])


def _build() -> None:
    """About 7 minutes on two quiet cores."""
    say("building llama-server (7 minutes)")
    _HERE.mkdir(parents=True, exist_ok=True)
    if not _LLAMA.exists():
        python = environment("pip", ("pip",))
        fetch = [str(python), "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
        shell("llama-server", [*fetch, "--dest", str(_HERE), RELEASE.replace("_", "-", 2).replace("-0.", "==0.")])
        with tarfile.open(_HERE / f"{RELEASE}.tar.gz") as archive:
            archive.extractall(_HERE, filter="data")
        (_HERE / RELEASE).rename(_SOURCE)
    options = [f"-D{option}" for option in _OPTIONS]
    shell("llama-server", ["cmake", "-S", str(_LLAMA), "-B", str(_HERE / "build"), *options])
    jobs = str(os.cpu_count())
    shell("llama-server", ["cmake", "--build", _HERE / "build", "--target", "llama-server", "-j", jobs])


def _converted(order: Order) -> Path:
    """The model as GGUF, made at first use."""
    model, tensors = order.folder, "int8" if order.int8 else "bf16"
    file = _HERE / f"{model.name}-{tensors}.gguf"
    if not file.exists():
        say(f"converting {model.name} to {file.name}")
        python = environment("gguf", ("torch==2.13.0", "transformers==5.23.0", "numpy", "sentencepiece", "protobuf"))
        script = Path(__file__).with_name("to_gguf.py")
        part = file.with_suffix(".part")
        shell("gguf", [python, script, _LLAMA, model, "--outfile", part, "--outtype", _TENSORS[tensors]])
        part.rename(file)
    return file
