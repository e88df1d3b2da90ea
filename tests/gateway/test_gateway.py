"""The gateway as a process: one for each home, started, stopped, and told what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.conftest import make_home

from bainmarie import __version__
from bainmarie.app import DATABASE
from bainmarie.workers.sockets import socket_path

PROGRAM = """
import json, os, sys
from pathlib import Path
from bainmarie.errors import BainError
from bainmarie.gateway import serve
from bainmarie.settings import parse_settings

home, text, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
try:
    serve(parse_settings(text, home / "bain.yaml"), home, ready=lambda info: print(info.address, flush=True), **options)
except BainError as error:
    print(json.dumps({"error": error.message, "hint": error.hint, "code": error.code}), flush=True)
    sys.exit(error.exit_code)
"""
FAKE = """
models:
  echo: {engine: fake}
  long: {engine: fake, options: {token_seconds: 0.05}}
"""


class Process:
    """A gateway in a process of its own."""

    def __init__(self, home: Path, text: str, options: dict[str, object]) -> None:
        self.home = home
        command = [sys.executable, "-c", PROGRAM, str(home), text, json.dumps({"port": 0, **options})]
        with self._log().open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline().strip()

    @property
    def address(self) -> str:
        assert self.first_line.startswith("http://"), self.first_line or self.log()
        return self.first_line

    @property
    def error(self) -> dict[str, str]:
        return json.loads(self.first_line)

    def log(self) -> str:
        return self._log().read_text()

    def _log(self) -> Path:
        return self.home.with_suffix(".log")

    def info(self) -> dict[str, object]:
        return json.loads((self.home / "gateway.json").read_text())

    def ended(self) -> int:
        """The exit code, when it has ended; nothing of it may be left."""
        code = self.process.wait(60)
        assert not (self.home / "gateway.json").exists(), self.log()
        return code


@pytest.fixture
def gateway(home: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(text: str = FAKE, at: Path = home, **options: object) -> Process:
        started.append(Process(at, text, options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        for stream in (one.process.stdin, one.process.stdout):
            assert stream is not None
            stream.close()


def test_it_tells_where_it_is_while_it_serves(gateway: Callable[..., Process]) -> None:
    one = gateway()
    info = one.info()
    assert info["address"] == one.address
    assert info["pid"] == one.process.pid
    assert info["version"] == __version__
    assert info["home"] == str(one.home)
    assert httpx2.get(f"{one.address}/api/status").json()["gateway"] == info
    one.process.terminate()
    assert one.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_its_workers(gateway: Callable[..., Process], number: signal.Signals) -> None:
    one = gateway()
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx2.post(f"{one.address}/v1/chat/completions", json=body, timeout=240)
    assert answer.status_code == 200, answer.text
    tree = psutil.Process(one.process.pid).children(recursive=True)
    assert tree
    one.process.send_signal(number)
    assert one.ended() == 0
    assert psutil.wait_procs(tree, timeout=10)[1] == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such sockets")
def test_the_sockets_of_a_long_home_have_one_private_folder_while_it_serves(
    gateway: Callable[..., Process], kept_home: Path, tmp_path: Path
) -> None:
    far = make_home(kept_home, tmp_path / ("x" * 100))
    folder = Path(socket_path(far, "gateway")).parent
    folder.chmod(0o755)
    refused = gateway(at=far)
    assert refused.process.wait(60) == 3
    assert refused.error["code"] == "socket_folder_taken"
    folder.rmdir()
    one = gateway(at=far)
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
    assert httpx2.post(f"{one.address}/v1/chat/completions", json=body, timeout=240).status_code == 200
    assert len(list(folder.glob("*.sock"))) == 2
    one.process.terminate()
    assert one.ended() == 0
    assert not folder.exists()


def test_a_running_request_is_answered_before_the_end(gateway: Callable[..., Process]) -> None:
    one = gateway()
    text = "one two three four five six seven eight nine ten"
    body = {"model": "long", "stream": True, "messages": [{"role": "user", "content": text}]}
    httpx2.post(f"{one.address}/models/load", json={"model": "long", "wait": True}, timeout=240)
    with httpx2.stream("POST", f"{one.address}/v1/chat/completions", json=body, timeout=240) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        one.process.terminate()
        rest = list(lines)
    pieces = [json.loads(line[6:]) for line in [first, *rest] if line.startswith("data: {")]
    told = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"])
    assert told == text
    assert rest[-2:] == ["data: [DONE]", ""]
    assert one.ended() == 0


def test_a_second_signal_cuts_requests(gateway: Callable[..., Process]) -> None:
    one = gateway()
    body = {"model": "long", "messages": [{"role": "user", "content": "word " * 2000}]}
    httpx2.post(f"{one.address}/models/load", json={"model": "long", "wait": True}, timeout=240)
    with httpx2.stream(
        "POST", f"{one.address}/v1/chat/completions", json={**body, "stream": True}, timeout=60
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        one.process.terminate()
        short = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
        with httpx2.Client(timeout=240) as http:
            while http.post(f"{one.address}/v1/chat/completions", json=short).status_code == 200:
                pass  # until it has begun to stop
        one.process.terminate()
        with pytest.raises(httpx2.TransportError):
            list(lines)
    assert one.ended() == 0


def test_shutdown_over_http(gateway: Callable[..., Process]) -> None:
    one = gateway()
    assert httpx2.post(f"{one.address}/api/shutdown").json()["pid"] == one.process.pid
    assert one.ended() == 0


def test_it_ends_with_its_lifeline(gateway: Callable[..., Process]) -> None:
    one = gateway(lifeline=0)
    assert one.process.stdin is not None
    one.process.stdin.write("anything\n")
    one.process.stdin.flush()
    assert httpx2.get(f"{one.address}/health").status_code == 200
    one.process.stdin.close()
    assert one.ended() == 0


def test_its_lifelines_end_does_not_wait_for_requests(gateway: Callable[..., Process]) -> None:
    one = gateway(lifeline=0)
    body = {"model": "long", "stream": True, "messages": [{"role": "user", "content": "word " * 5000}]}
    cut = threading.Event()

    def ask() -> None:
        try:
            with httpx2.stream("POST", f"{one.address}/v1/chat/completions", json=body, timeout=240) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        streaming.set()
        except httpx2.TransportError:
            cut.set()

    streaming = threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    assert streaming.wait(240)
    assert one.process.stdin is not None
    one.process.stdin.close()
    assert one.ended() == 0
    asking.join()
    assert cut.is_set()


def test_a_second_gateway_on_a_home_names_the_first(gateway: Callable[..., Process]) -> None:
    first = gateway()
    second = gateway()
    assert second.process.wait(60) == 7
    assert second.error["code"] == "gateway_running"
    assert f"pid {first.process.pid} at {first.address}" in second.error["error"]
    assert first.info()["pid"] == first.process.pid
    assert httpx2.get(f"{first.address}/health").status_code == 200


def test_a_killed_gateway_leaves_no_lock(gateway: Callable[..., Process]) -> None:
    first = gateway()
    first.process.kill()
    first.process.wait()
    second = gateway()
    assert second.info()["pid"] == second.process.pid
    second.process.terminate()
    assert second.ended() == 0


def test_an_address_in_use_is_told_with_its_owner(gateway: Callable[..., Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = gateway(port=port)
    assert one.process.wait(60) == 7
    assert one.error["code"] == "port_in_use"
    owner = f"by pid {os.getpid()} ({psutil.Process().name()})"
    assert one.error["error"] == f"127.0.0.1:{port} is in use {owner}"
    assert "--port" in one.error["hint"]


def test_an_address_of_another_machine_is_refused(gateway: Callable[..., Process]) -> None:
    one = gateway(host="192.0.2.1")
    assert one.process.wait(60) == 7
    assert "cannot listen on 192.0.2.1:0" in one.error["error"]


def test_the_settings_address_is_used(gateway: Callable[..., Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    one = gateway(text=f"gateway: {{host: localhost, port: {port}}}", port=None)
    assert one.address.endswith(f":{port}")


def test_every_address_of_the_machine_is_reached_by_loopback(gateway: Callable[..., Process]) -> None:
    one = gateway(host="0.0.0.0")
    assert one.address.startswith("http://127.0.0.1:")
    assert httpx2.get(f"{one.address}/health").status_code == 200


def test_what_keeps_it_from_starting_is_told(gateway: Callable[..., Process], home: Path) -> None:
    (home / DATABASE).mkdir()
    one = gateway()
    assert one.process.wait(60) == 3
    assert one.error["code"] == "configuration"
    assert str(home / DATABASE) in one.error["error"]
    assert not (home / "gateway.json").exists()
