"""A shim that a fork server forks, behind the words that asyncio has for a process of its own.

So `LocalWorker` is the same for both. The shim's pipes are made here and sent to the fork server; a third pipe, which
the shim alone holds, ends when it dies: nobody but its parent could wait for it.

    asked ──▶ forked (its pid is the first line of its stdout) ──▶ dead
      └─────▶ refused, or the fork server died: `on_refused` says why, and nothing was started
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable

from bainmarie.workers.launch import LocalWorker


class ForkedShim(asyncio.SubprocessTransport):
    """One start. Calls the worker's methods as asyncio calls those of any subprocess protocol."""

    def __init__(self, worker: LocalWorker, on_answer: Callable[[], None], on_refused: Callable[[str], None]) -> None:
        super().__init__()
        self._worker = worker
        self._on_answer = on_answer
        self._on_refused = on_refused
        self._pid = 0
        self._reason = "the fork server died"
        self._line = b""
        self._dead = self._silent = self._over = False

    async def connect(self) -> tuple[int, int, int]:
        """Makes the pipes. Returns the shim's ends: stdin, stdout, and the one that tells its death.

        They are the caller's to send and to close.
        """
        loop = asyncio.get_running_loop()
        (stdin, to_stdin), (from_stdout, stdout), (alive, life) = os.pipe(), os.pipe(), os.pipe()
        self._stdin, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(to_stdin, "wb", 0))
        self._stdout, _ = await loop.connect_read_pipe(lambda: _Stdout(self), os.fdopen(from_stdout, "rb", 0))
        self._life, _ = await loop.connect_read_pipe(lambda: _Life(self), os.fdopen(alive, "rb", 0))
        self._worker.connection_made(self)
        return stdin, stdout, life

    @property
    def forked(self) -> bool:
        return self._pid != 0

    def get_pid(self) -> int:
        """0 before it is forked."""
        return self._pid

    def get_returncode(self) -> int | None:
        return None

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        return (self._stdin, self._stdout, self._life)[fd]

    def cannot_be_asked(self, reason: str) -> None:
        """Once the caller has closed the shim's ends, `on_refused` follows with that reason."""
        self._reason = reason

    def close(self) -> None:
        """Ends the pipes: a shim that lives ends at that."""
        for pipe in (self._stdin, self._stdout, self._life):
            pipe.close()

    def _said(self, data: bytes) -> None:
        if self._pid:
            self._worker.pipe_data_received(1, data)
            return
        line, newline, rest = (self._line + data).partition(b"\n")
        self._line = line
        if not newline:
            return
        answer = json.loads(line)
        self._reason = str(answer.get("refused", self._reason))
        self._pid = int(answer.get("forked", 0))
        self._on_answer()
        if self._pid:
            self._worker.pipe_data_received(1, rest)
        if self._pid and self._dead:
            self._worker.process_exited()

    def _died(self) -> None:
        self._dead = True
        if self._pid:
            self._worker.process_exited()
        self._end_if_over()

    def _fell_silent(self) -> None:
        self._silent = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._over or not (self._dead and self._silent):
            return
        self._over = True
        self.close()
        if self._pid:
            self._worker.connection_lost(None)
        else:
            self._on_refused(self._reason)


class _Stdout(asyncio.Protocol):
    def __init__(self, shim: ForkedShim) -> None:
        self._shim = shim

    def data_received(self, data: bytes) -> None:
        self._shim._said(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shim._fell_silent()


class _Life(asyncio.Protocol):
    def __init__(self, shim: ForkedShim) -> None:
        self._shim = shim

    def connection_lost(self, exc: Exception | None) -> None:
        self._shim._died()
