"""The fork server with real models: what is forked from it answers as a fresh process does."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bainmarie_protocol import Event, Failed, Progress, Ready, ServedModel, Spawned, WorkerConfig, decode_event

_ROOT = Path(__file__).resolve().parents[2] / "packages"
_SHIM = str(_ROOT / "gateway" / "src" / "bainmarie" / "workers" / "shim.py")
_SOURCES = [str(_ROOT / name / "src") for name in ("worker", "protocol")]
_PROGRAM = f"import sys; sys.path[:0] = {_SOURCES!r}; from bainmarie_worker.fork_server import main; main()"
_QUESTIONS = ("Hello", "What is 2 + 2?", "Tell me more about it, please.")


class Start:
    """One start: the answer of the fork server, then the events of shim and worker."""

    def __init__(self, stdin: int, stdout: int, life: int, config: WorkerConfig) -> None:
        self.config = config
        self.stdin, self.stdout, self.life = stdin, os.fdopen(stdout, "rb"), life
        with contextlib.suppress(BrokenPipeError):
            os.write(stdin, config.to_json().encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.stdout.readline())
        return answer

    def until(self, *kinds: type[Event]) -> list[Event]:
        seen: list[Event] = []
        for line in self.stdout:
            seen.append(decode_event(line))
            if isinstance(seen[-1], kinds):
                return seen
        raise AssertionError(f"the worker ended without {kinds}: {seen}")

    def chat(self, content: str) -> str:
        body = {
            "model": self.config.name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 24,
            "temperature": 0,
        }
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.config.socket)
            data = json.dumps(body).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: w\r\nConnection: close\r\nContent-Length: {len(data)}"
            connection.sendall(head.encode() + b"\r\n\r\n" + data)
            reply = b"".join(iter(lambda: connection.recv(65536), b""))
        return str(json.loads(reply.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"])

    def end(self) -> None:
        """Closes the lifeline; returns when the shim is dead."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1
            assert os.read(self.life, 1) == b""
            os.close(self.life)
            self.stdout.close()


class ForkServer:
    def __init__(self, folder: Path, program: str = _PROGRAM) -> None:
        self.folder = folder
        self.started: list[Start] = []
        self.messages, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", program, str(theirs.fileno()), _SHIM],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
            )

    def start(self, model: Any, *served: ServedModel, device: str = "cpu", engine: str = "transformers") -> Start:
        number = len(self.started)
        models = served or (ServedModel("m"),)
        path = str(self.folder / f"{number}.sock")
        config = WorkerConfig("m", engine, str(model), models, socket=path, device=device)
        settings = {
            "cwd": str(self.folder),
            "log": str(self.folder / f"{number}.log"),
            "log_bytes": 100_000,
            "socket": config.socket,
            "grace": 1.0,
        }
        adapters = any(one.adapter for one in models)
        wish = {
            "engine": engine,
            "model": str(model),
            "device": device,
            "adapters": adapters,
            "settings": settings,
            "word": "w",
        }
        (stdin, to_stdin), (from_stdout, stdout), (alive, life) = os.pipe(), os.pipe(), os.pipe()
        ends = array.array("i", [stdin, stdout, life])
        self.messages.sendmsg([json.dumps(wish).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, ends)])
        for end in ends:
            os.close(end)
        self.started.append(Start(to_stdin, from_stdout, alive, config))
        return self.started[-1]

    def close(self) -> None:
        for start in self.started:
            start.end()
        assert self.process.stdin is not None
        self.messages.close()
        self.process.wait(30)
        self.process.stdin.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    made = ForkServer(tmp_path_factory.mktemp("f"))
    yield made
    made.close()
    assert made.process.returncode == 0


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_forked_worker_answers_as_a_fresh_one_does(server, worker, family, device):
    if device == "auto" and worker.events[-1].info["device"] != "cpu":
        pytest.skip("`auto` takes an accelerator here")
    forked = server.start(family.base, device=device)
    answer = forked.answer()
    seen = forked.until(Ready, Failed)
    assert isinstance(seen[0], Spawned)
    assert isinstance(seen[-1], Ready)
    assert seen[0].pid not in (answer["forked"], server.process.pid)
    assert any(isinstance(event, Progress) and event.stage == "weights" for event in seen)
    for question in _QUESTIONS:
        assert forked.chat(question) == worker.text(question, max_tokens=24, temperature=0)
    forked.end()


def test_several_at_once_each_with_its_own_log_and_socket(server, worker, family):
    starts = [server.start(family.base) for _ in range(3)]
    for start in starts:
        assert "forked" in start.answer()
        start.until(Ready)
    texts = {start.chat(_QUESTIONS[0]) for start in starts}
    assert texts == {worker.text(_QUESTIONS[0], max_tokens=24, temperature=0)}
    logs = [Path(server.folder / f"{server.started.index(start)}.log").read_text() for start in starts]
    assert all(log.count("worker started") == 1 for log in logs)
    for start in starts:
        start.end()
        assert not os.path.exists(start.config.socket)


def test_threads_are_those_of_a_fresh_process(server, family):
    forked = server.start(family.base)
    forked.answer()
    pid = forked.until(Ready)[0].pid
    forked.chat(_QUESTIONS[0])
    cores = len(os.sched_getaffinity(0))
    assert len(os.listdir(f"/proc/{pid}/task")) >= (cores if cores > 1 else 1)
    assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1
    forked.end()


def test_adapters_load_in_a_forked_worker(server, worker, family):
    forked = server.start(family.base, ServedModel("m"), ServedModel("a", adapter=str(family.adapter)))
    assert "forked" in forked.answer()
    forked.until(Ready)
    assert forked.chat(_QUESTIONS[1]) == worker.text(_QUESTIONS[1], max_tokens=24, temperature=0)
    forked.end()


def test_what_is_wrong_with_a_model_is_told_by_the_worker(server, tmp_path):
    forked = server.start(tmp_path)
    assert "forked" in forked.answer()
    assert forked.until(Failed)[-1].code == "model_incomplete"
    forked.end()


def test_an_import_that_leaves_a_thread_is_refused(tmp_path):
    thread = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start(); "
    server = ForkServer(tmp_path, thread + _PROGRAM)
    start = server.start("nowhere", engine="fake")
    assert start.answer() == {"refused": "its imports have started 1 threads, which a fork would lose"}
    assert os.read(start.life, 1) == b""
    server.close()


def test_a_start_that_nobody_waits_for_any_more_is_not_made(tmp_path):
    server = ForkServer(tmp_path)
    start = server.start("nowhere", engine="fake")
    start.stdout.close()
    assert os.read(start.life, 1) == b""
    assert not (tmp_path / "0.log").exists()
    os.close(start.stdin)
    start.stdin = -1
    server.close()
