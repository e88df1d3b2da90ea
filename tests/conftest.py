"""Shared by all tests: a home for bainmarie that keeps environments between runs, and a real gateway on it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

# A program started in the background is born with SIGINT ignored, and so are its children: nothing could stop them.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
BAIN = Path(sys.executable).with_name("bain")
_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session")
def kept_home() -> Path:
    """BAIN_HOME whose environments outlive the test run, so that only the first run builds them."""
    from tests.worker_environment import sweep_older  # not above: tests/worker runs where there is no bainmarie

    home = Path(os.environ.get("BAIN_TEST_HOME", ROOT / ".bain-test"))
    (home / "environments").mkdir(parents=True, exist_ok=True)
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
        sweep_older(home)
    return home


@pytest.fixture
def home(kept_home: Path, tmp_path: Path) -> Path:
    """A fresh BAIN_HOME that shares the kept environments."""
    return make_home(kept_home, tmp_path / "home")


def make_home(kept_home: Path, path: Path) -> Path:
    path.mkdir()
    (path / "environments").symlink_to(kept_home / "environments", target_is_directory=True)
    return path


def clean_environ(home: Path) -> dict[str, str]:
    """What a program started by a test sees: no configuration but the test's own."""
    left_out = {"BAIN_CONFIG", "BAIN_URL", "BAIN_API_KEY"}
    return {**{k: v for k, v in os.environ.items() if k not in left_out}, "BAIN_HOME": str(home), "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def subreaper() -> Iterator[None]:
    """Orphans come to this process, so that none can hide; in one file of tests, for here nobody else collects them."""
    if sys.platform != "linux":
        pytest.skip("needs a Linux child subreaper")
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@dataclass
class Cli:
    """Runs `bain` in a folder with a home of its own."""

    home: Path
    folder: Path

    def __call__(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BAIN), *arguments],
            check=False,
            cwd=self.folder,
            env=clean_environ(self.home),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture
def cli(home: Path, tmp_path: Path) -> Cli:
    folder = tmp_path / "cwd"
    folder.mkdir()
    return Cli(home, folder)


class Gateway:
    """A gateway process of the test's own, and an HTTP client to it."""

    def __init__(self, process: subprocess.Popen[str], address: str, home: Path) -> None:
        self.process = process
        self.address = address
        self.home = home
        self.http = httpx2.Client(base_url=address, timeout=240)

    def chat(self, model: str, text: str, **fields: Any) -> dict[str, Any]:
        """One chat completion, as JSON."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        response = self.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def status(self, model: str) -> dict[str, Any]:
        """The entry of one model in /api/status."""
        models = self.http.get("/api/status").json()["models"]
        return next(m for m in models if m["id"] == model)

    def processes(self) -> list[psutil.Process]:
        """The gateway's descendants."""
        return psutil.Process(self.process.pid).children(recursive=True)


def launch_gateway(home: Path, folder: Path, configuration: str, bain: Path = BAIN) -> Gateway:
    """A gateway on a free port, with the configuration in `folder`/bain.yaml and its log beside it."""
    file, log = folder / "bain.yaml", folder / "gateway.log"
    file.write_text(configuration)
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [str(bain), "up", "--lifeline", "--port", "0", "--config", str(file)],
            cwd=folder,
            env=clean_environ(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(10)
        pytest.fail(f"the gateway did not start: {log.read_text()}")
    return Gateway(process, json.loads(line)["address"], home)


def end_gateway(gateway: Gateway) -> None:
    """Stops it with TERM; fails where it does not stop, or leaves a process."""
    process = gateway.process
    left = gateway.processes() if process.poll() is None else []
    gateway.http.close()
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        pytest.fail("the gateway did not stop within 30 s of SIGTERM")
    finally:
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive, f"left behind: {alive}"


@pytest.fixture
def start_gateway(home: Path, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways with the given configuration; ends them with the test and checks that nothing is left."""
    with ExitStack() as stack:

        def start(configuration: str = "version: 1\n") -> Gateway:
            gateway = launch_gateway(home, tmp_path, configuration)
            stack.callback(end_gateway, gateway)
            return gateway

        yield start


@pytest.fixture(scope="module")
def demo_gateway(kept_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway with the built-in models for all tests of a file that only ask it something."""
    folder = tmp_path_factory.mktemp("demo-gateway")
    gateway = launch_gateway(make_home(kept_home, folder / "home"), folder, "version: 1\n")
    yield gateway
    end_gateway(gateway)
