"""The shim's work on Windows: the contract of shim.py with a job in place of groups, threads in place of poll().

A stop is: end of file on the worker's stdin, and a break event to a foreign program; after the grace all of the job are
ended, again and again until nothing is left. No worker survives its gateway. The standard library alone: the shim loads
this file by its path. Never run: see docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bainmarie.workers.job_object import Job
    from bainmarie.workers.shim import Log, Settings

_CHUNK = 1 << 16
_NO_PROGRAM = "Install it, or correct the model's `command:`; a bare name is looked for on the PATH of the gateway."
_PAUSE = 0.05
"""Seconds between two looks whether something of the tree is left."""


class WindowsShim:
    """One worker from its start until nothing of it is left."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        emit: Callable[..., None],
        job: Callable[[], Job],
        graces: tuple[float, float],
    ) -> None:
        """`graces`: seconds where the gateway is gone, and for what a worker has left behind at its exit."""
        self._settings = settings
        self._log = log
        self._emit = emit
        self._make_job = job
        self._lifeline_grace, self._aftermath_grace = graces
        self._news: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._kill_at: float | None = None

    def run(self) -> None:
        """Returns when nothing of the tree is left and `exited` is written."""
        try:
            self._job = self._make_job()
            self._worker = self._start()
        except OSError as error:
            hint = _NO_PROGRAM if self._settings.foreign else ""
            self._emit(
                "failed", code="spawn_failed", message=f"the worker's program cannot be started: {error}", hint=hint
            )
            self._emit("exited", code=127)
            return
        self._emit("spawned", pid=self._worker.pid)
        for work in (self._read_lifeline, self._copy_log, self._wait):
            threading.Thread(target=work, daemon=True).start()
        first = not self._settings.foreign
        while self._worker.poll() is None or self._job.others():
            kind, data = self._next()
            if kind == "line" and first:
                self._feed(data)
                first = False
            elif kind == "line" and data.startswith(b"stop "):
                self._stop(float(data.split()[1]))
            elif kind == "end":
                self._stop(self._lifeline_grace)
            elif kind == "exited":
                self._stop(self._aftermath_grace)
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._job.kill_others()
        self._emit("exited", code=self._worker.returncode)

    def _start(self) -> subprocess.Popen[bytes]:
        foreign = self._settings.foreign
        return subprocess.Popen(
            self._settings.argv,
            stdin=subprocess.DEVNULL if foreign else subprocess.PIPE,
            stdout=subprocess.PIPE if foreign else None,
            stderr=subprocess.STDOUT if foreign else subprocess.PIPE,
            cwd=self._settings.cwd,
            bufsize=0,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    def _next(self) -> tuple[str, bytes]:
        try:
            return self._news.get(timeout=None if self._kill_at is None else _PAUSE)
        except queue.Empty:
            return "", b""

    def _feed(self, line: bytes) -> None:
        assert self._worker.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: its exit is seen elsewhere
            self._worker.stdin.write(line + b"\n")

    def _stop(self, grace: float) -> None:
        """Begins the end, or brings it nearer; never puts it off."""
        kill_at = time.monotonic() + grace
        if self._kill_at is None or kill_at < self._kill_at:
            self._kill_at = kill_at
        with contextlib.suppress(OSError):
            if self._worker.stdin is not None:
                self._worker.stdin.close()
            else:
                self._worker.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))

    def _read_lifeline(self) -> None:
        rest = b""
        while data := os.read(0, _CHUNK):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._news.put(("line", line))
        self._news.put(("end", b""))

    def _copy_log(self) -> None:
        said = self._worker.stdout if self._settings.foreign else self._worker.stderr
        assert said is not None
        while data := os.read(said.fileno(), _CHUNK):
            self._log.write(data)

    def _wait(self) -> None:
        self._worker.wait()
        self._news.put(("exited", b""))
