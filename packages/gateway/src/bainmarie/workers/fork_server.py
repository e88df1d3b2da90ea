"""The fork server of one environment, as the gateway sees it (its own side: bainmarie_worker/fork_server.py)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bainmarie.workers import shim
from bainmarie.workers.launch import LaunchSpec
from bainmarie.workers.memory import MemoryGauge, process_memory
from bainmarie.workers.records import WORD, Records

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForkServerKey:
    """What all workers of one fork server have in common: interpreter, packages, import path, and every variable."""

    command: tuple[str, ...]
    installed: str
    variables: tuple[tuple[str, str], ...]

    @staticmethod
    def of(spec: LaunchSpec) -> ForkServerKey:
        return ForkServerKey(spec.fork_server, spec.installed, tuple(sorted(spec.env.items())))


class ForkServer(asyncio.SubprocessProtocol):
    """One process of it. It ends with the gateway, whatever happens to either."""

    def __init__(self, environment: str, starts: socket.socket) -> None:
        self.environment = environment
        self._starts = starts
        self.workers = 0
        """Those that were forked from it and are not dead."""
        self.warm = False
        """It has answered once: its imports are done."""
        self.memory = MemoryGauge(process_memory)
        self._idle: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when it is dead: how it ended."""

    @staticmethod
    async def start(spec: LaunchSpec, log: Path) -> ForkServer:
        """Returns when the process runs; it takes starts from then on. OSError."""
        if sys.platform == "win32":
            raise OSError("this system cannot fork")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("wb") as stderr:
            os.chmod(log, 0o600)
            try:
                _, server = await asyncio.get_running_loop().subprocess_exec(
                    lambda: ForkServer(spec.environment, ours),
                    *(*spec.fork_server, str(theirs.fileno()), shim.__file__),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=stderr,
                    stderr=stderr,
                    cwd=spec.cwd,
                    env={**spec.env, WORD: Records.new_word()},
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                ours.close()
                raise
        return server

    @property
    def pid(self) -> int:
        return self._transport.get_pid()

    def send(self, message: Mapping[str, object], descriptors: Sequence[int]) -> None:
        """One start. Never waits: what the server cannot read yet stays in the socket. OSError where it cannot."""
        if sys.platform == "win32":
            raise OSError("this system cannot fork")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        self._starts.sendmsg([json.dumps(message).encode()], rights)

    def joined(self) -> None:
        """One more worker."""
        self.workers += 1
        if self._idle is not None:
            self._idle.cancel()

    def left(self, idle: float, end: Callable[[], None]) -> None:
        """One worker less; without any for `idle` seconds, `end` is called."""
        self.workers -= 1
        if not self.workers and not self.ended.done():
            self._idle = asyncio.get_running_loop().call_later(idle, end)

    def kill(self) -> None:
        """Its shims and workers live on: they hang on the gateway alone."""
        with contextlib.suppress(ProcessLookupError):
            self._transport.kill()

    async def close(self) -> None:
        """On return the process is gone."""
        self.kill()
        await asyncio.wait({self.ended})

    # What asyncio calls:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.memory.watch(self._transport.get_pid())

    def process_exited(self) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._starts.close()
        self.memory.watch(None)
        if self._idle is not None:
            self._idle.cancel()
        self.ended.set_result(_how(self._transport.get_returncode()))


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
