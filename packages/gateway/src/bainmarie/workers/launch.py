"""Starting a worker and stopping it: the one small interface behind which workers may one day live elsewhere.

`Launcher` has two members. `LocalLauncher` starts a shim on this machine, which starts the worker (see shim.py).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from bainmarie.errors import LoadFailed
from bainmarie.workers import shim
from bainmarie.workers.isolation import Isolation
from bainmarie.workers.records import WORD, Records
from bainmarie_protocol import MAX_LINE, Event, Exited, Failed, Ready, WorkerConfig, decode_event

_log = logging.getLogger(__name__)

_LOG_BYTES = 5 * 1024 * 1024
_TERM_GRACE = 5.0
"""What the shim grants where a signal, not a command, tells it to stop."""
_KILL_ROOM = 10.0
"""Beyond the grace: how long the kernel may need to free what was killed before `stop` returns without it."""
_PIPE_ROOM = 0.5
"""After the shim's death: how long its last words may take through the pipe."""


@dataclass(frozen=True)
class Door:
    """Where a program that is not our worker listens, and how it tells that it is ready."""

    health: str
    """The path that answers 200 then."""
    port: int = 0
    """On loopback; 0 where it has the unix socket of the configuration."""


@dataclass(frozen=True)
class LaunchSpec:
    """All that is needed to start one worker."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment of the process; nothing is inherited."""
    config: WorkerConfig
    log: Path
    cwd: Path
    environment: str = ""
    """Digest of the environment, for the status."""
    fork_server: tuple[str, ...] = ()
    """The command of the fork server that this worker can be forked from; empty where it needs a fresh process."""
    installed: str = ""
    """Changes with what is installed in the environment: a fork server that imported something else is not used."""
    fresh_because: str = ""
    """Why, for people."""
    door: Door | None = None
    """For a program that is not our worker: it gets no configuration, says no events, and its stdout is log too."""


class LaunchedWorker(Protocol):
    """A process that was started; it is never started again."""

    @property
    def pid(self) -> int:
        """The root of the process tree."""

    def events(self) -> AsyncGenerator[Event, None]:
        """What it says, as it says it, up to its end. One reader only. The last one is always `Exited`."""

    def tail(self, lines: int = 40) -> str:
        """The end of its log, of this start only."""


class Launcher(Protocol):
    async def start(self, spec: LaunchSpec) -> LaunchedWorker:
        """Returns when the process runs, long before it is ready. LoadFailed where it cannot be started."""

    async def stop(self, worker: LaunchedWorker, grace: float) -> bool:
        """TERM, `grace` seconds, KILL. True when nothing is left of its tree; False where the kernel keeps something.

        Idempotent. `events` goes on to its end by itself.
        """


class LocalLauncher:
    """Workers on this machine, each under its own shim.

    With `records` each tree is written down while it lives. `isolation` says what keeps it together; it may block.
    """

    def __init__(
        self, records: Records | None = None, isolation: Callable[[], Isolation] = lambda: Isolation("child subreaper")
    ) -> None:
        self._records = records
        self._isolation = isolation

    async def start(self, spec: LaunchSpec) -> LocalWorker:
        worker = LocalWorker(spec.log)
        await self.run(worker, spec)
        return worker

    async def run(self, worker: LocalWorker, spec: LaunchSpec) -> None:
        """As `start`, for a worker that has no process yet."""
        word = Records.new_word()
        settings = await self.shim_settings(spec)
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: worker,
                *(sys.executable, "-I", "-S", shim.__file__),
                json.dumps({"argv": spec.argv, **settings}),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=None,
                env={**spec.env, WORD: word},
                start_new_session=True,
            )
        except OSError as error:
            raise LoadFailed(f"the worker's shim cannot be started: {error}", code="spawn_failed") from error
        self.record(worker, word)
        if spec.door is None:
            worker.say(spec.config.to_json())

    async def shim_settings(self, spec: LaunchSpec) -> dict[str, object]:
        """What the shim is told, but for the program; on return its log has a folder and its socket's place is free."""
        isolation = await asyncio.to_thread(self._isolation)
        return {**_shim_settings(spec), "namespace": isolation.namespace(foreign=spec.door is not None)}

    def record(self, worker: LocalWorker, word: str) -> None:
        """Writes down that the tree of this running worker carries that word, until it is gone."""
        if self._records is None:
            return
        self._records.add(word, worker.pid)
        worker.word = word
        self.adopted(worker)

    def adopted(self, worker: LocalWorker) -> None:
        """Its tree is written down already, and from now on ours."""
        records = self._records
        if records is not None:
            worker.ended.add_done_callback(lambda _: self._clear(records, worker.word, worker))

    def _clear(self, records: Records, word: str, worker: LocalWorker) -> None:
        """A shim that was killed could not end its tree: what it left is ended here."""
        if worker.said_exited:
            records.remove(word)
        else:
            asyncio.get_running_loop().run_in_executor(None, records.end, word)

    async def stop(self, worker: LaunchedWorker, grace: float) -> bool:
        assert isinstance(worker, LocalWorker)
        if worker.released:
            return True
        worker.unwanted = True
        worker.say(f"stop {grace}")
        done, _ = await asyncio.wait({worker.ended}, timeout=grace + _KILL_ROOM)
        if not done:
            _log.error("process %d cannot be ended: the kernel keeps something of its tree", worker.pid)
        return bool(done)


def _shim_settings(spec: LaunchSpec) -> dict[str, object]:
    socket = spec.config.socket
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    if socket:
        Path(socket).unlink(missing_ok=True)
    return {
        "cwd": str(spec.cwd),
        "log": str(spec.log),
        "log_bytes": _LOG_BYTES,
        "socket": socket,
        "grace": _TERM_GRACE,
        "foreign": spec.door is not None,
    }


class LocalWorker(asyncio.SubprocessProtocol):
    """One shim with its worker, seen through the shim's pipes."""

    start = "fresh process"
    """How it was started, and why so: shown in the info of the ready worker."""
    unwanted = False
    """Somebody has asked for its end: nothing more is started for it."""
    word = ""
    """What every process of its tree has in its environment; empty where no records are kept."""
    released = False
    """Another gateway has it, or will."""

    _transport: asyncio.SubprocessTransport

    def __init__(self, log: Path) -> None:
        self.log = log
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._rest = b""
        self.said_exited = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the shim is dead."""

    @property
    def pid(self) -> int:
        return self._transport.get_pid()

    def say(self, line: str) -> None:
        """One line to the shim. Never waits; nothing happens where the shim is gone."""
        pipe = self._transport.get_pipe_transport(0)
        if pipe is not None and not pipe.is_closing():
            cast("asyncio.WriteTransport", pipe).write(line.encode() + b"\n")

    async def events(self) -> AsyncGenerator[Event, None]:
        while (event := await self._events.get()) is not None:
            yield event

    def tail(self, lines: int = 40) -> str:
        return tail(self.log, lines)

    def tell(self, event: Event) -> None:
        """One more event, before those of the process."""
        self._events.put_nowait(event)

    def give_up(self, failure: Failed | None) -> None:
        """In place of a process that could not be started: its only events."""
        if failure is not None:
            self.tell(failure)
        self.tell(Exited())
        self._events.put_nowait(None)
        self.ended.set_result(None)

    def release(self) -> None:
        """Lets go of the shim without ending it. From now on nothing is heard of it; `ended` never comes."""
        self.released = True
        process = self._transport.get_extra_info("subprocess")
        if process is not None:
            process.returncode = 0  # asyncio would kill it
            self._transport.close()
            return
        for pipe in map(self._transport.get_pipe_transport, range(3)):
            if pipe is not None:
                pipe.close()

    def regain(self, other: LocalWorker) -> None:
        """The shim that was released is ours again: `other`, which has just adopted it, leads to it."""
        self.released = False
        self._transport, self._rest = other._transport, other._rest
        self._transport.set_protocol(self)
        self.said_exited = other.said_exited
        while not other._events.empty():
            self._events.put_nowait(other._events.get_nowait())
        if other.ended.done():
            self.ended.set_result(None)

    # What asyncio calls:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > 4 * MAX_LINE:
            _log.warning("worker %d: dropped an endless line: %r...", self.pid, self._rest[:80])
            self._rest = b""
        for line in lines if not self.released else ():
            self._take(line)

    def process_exited(self) -> None:
        if self.released:
            return
        # A grandchild may hold the pipe open for ever where the shim was killed: its end cannot be waited for.
        self._closing = asyncio.get_running_loop().call_later(_PIPE_ROOM, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The shim is dead and reaped, and all it wrote was read."""
        if self.released or self.ended.done():  # the way that led to it before a release may tell it too
            return
        self._closing.cancel()
        self._transport.close()
        if not self.said_exited:
            self._events.put_nowait(Exited())
        self._events.put_nowait(None)
        self.ended.set_result(None)

    def _take(self, line: bytes) -> None:
        try:
            event = decode_event(line)
        except ValueError as error:
            _log.warning("worker %d: %s", self.pid, error)
            return
        if isinstance(event, Ready):
            event = replace(event, info={**event.info, "start": self.start})
        if not self.said_exited:
            self._events.put_nowait(event)
        self.said_exited = self.said_exited or isinstance(event, Exited)


def tail(log: Path, lines: int = 40) -> str:
    """The last lines of a worker's log, at most of its latest start; empty where there is none."""
    read = b""
    for part in (log.with_name(log.name + ".1"), log):
        try:
            read += _end_of(part, lines * 400)
        except FileNotFoundError:
            continue
    start = read.rfind(shim.STARTED)
    if start >= 0:
        read = read[start:].partition(b"\n")[2]
    return "\n".join(read.decode(errors="replace").splitlines()[-lines:])


def _end_of(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - size))
        return file.read()
