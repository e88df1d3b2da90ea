"""One worker: its state (see states.py), its process, and every move between the two.

Callers say `ready()`; they never look at the state and then act. One task (`_live`) owns each life from its start until
nothing of its process is left; nobody cancels it. It runs `_bring_up_and_watch` as an inner task, which a stop cancels
once. A caller's cancel touches neither.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from bainmarie.catalog import ModelSpec
from bainmarie.errors import BainError, LoadFailed, OverCapacity
from bainmarie.progress import Progress, Report
from bainmarie.workers import oom, readiness
from bainmarie.workers.accelerators import Accelerators
from bainmarie.workers.backoff import BackOff
from bainmarie.workers.client import WorkerClient
from bainmarie.workers.deadlines import deadline, until
from bainmarie.workers.death import death
from bainmarie.workers.failure import Failure
from bainmarie.workers.launch import LaunchedWorker, Launcher, LaunchSpec
from bainmarie.workers.limits import Limits
from bainmarie.workers.memory import MemoryGauge
from bainmarie.workers.note import Note
from bainmarie.workers.pulse import Pulse, probe
from bainmarie.workers.reports import Reports
from bainmarie.workers.states import MOVES, ON_THE_WAY, State
from bainmarie.workers.tries import Tries
from bainmarie_protocol import Event, Failed, Listening, Ready, Spawned
from bainmarie_protocol import Progress as WorkerProgress

_log = logging.getLogger(__name__)

Prepare = Callable[[Sequence[ModelSpec], Report], Awaitable[LaunchSpec]]
"""Checks the models' files and makes their environment ready. Raises EnvironmentFailed, LoadFailed."""

_PORTS = 5
"""Starts of one load, each with a new port, where another program takes it each time."""


@dataclass(frozen=True)
class Process:
    """A process and the way to it."""

    launched: LaunchedWorker
    spec: LaunchSpec
    port: int


class Worker:
    """The process that holds one base model for `models`, through all its lives. The attributes are for reading."""

    def __init__(
        self,
        models: Sequence[ModelSpec],
        prepare: Prepare,
        launcher: Launcher,
        on_change: Callable[[], None],
        limits: Limits,
        back_off: BackOff,
        admit: Callable[[], Awaitable[None]],
        accelerators: Accelerators | None = None,
    ) -> None:
        """`admit` returns when there is room for the process."""
        self._admit = admit
        self.load_seconds = 0.0
        self.models = models
        self.state = State.UNLOADED
        self.failure: Failure | None = None
        """The last one; kept until the next `ready`."""
        self.info: dict[str, object] = {}
        self.environment = ""
        self.pid: int | None = None
        self.restarts = 0
        self.loaded_at: datetime | None = None
        self.memory = MemoryGauge(accelerators=accelerators)
        self._prepare = prepare
        self._launcher = launcher
        self._on_change = on_change
        self._limits = limits
        self._tries = Tries(back_off)
        self._reports = Reports()
        self._closed = False
        self._life: asyncio.Task[None] | None = None
        self._launching: asyncio.Future[LaunchedWorker] | None = None
        self._client: WorkerClient | None = None
        self._pulse: asyncio.Task[None] | None = None
        self._lost: BainError | None = None
        """Why a ready worker is given up while its process lives."""

    async def ready(self, report: Report | None = None, *, manual: bool = False) -> WorkerClient:
        """Waits until the worker is ready, starting it once for all who ask.

        Raises the start's failure, the same for all; without a new start while it has to wait for its next try, unless
        `manual`, which forgets earlier failures. A cancelled caller stops nothing. `report` hears the progress.
        """
        with self._reports.hears(report):
            while self.state is not State.READY:
                if self.state is State.FAILED and not manual and self.failure and not self._tries.may_try():
                    raise self.failure.error()
                if self.state not in ON_THE_WAY:
                    if self._life is not None and not self._life.done():
                        await asyncio.wait({self._life})
                        continue
                    if self._closed:
                        raise OverCapacity("the gateway is shutting down", code="shutting_down")
                    self._start(manual)
                    manual = False
                failure = await asyncio.shield(self._settled)
                if failure is not None:
                    raise failure.error()
        assert self._client is not None
        return self._client

    def end(self) -> None:
        """Asks for the end of the present life; those who wait for it to become ready get an error."""
        if self.state in ON_THE_WAY or self.state is State.READY:
            self._move(State.STOPPING)
            self._inner.cancel()

    async def stop(self) -> None:
        """Ends the present life. On return no process is left and the failure, if there was one, is forgotten."""
        self.end()
        if self._life is not None:
            await asyncio.wait({self._life})
        if self.state is State.FAILED:
            self._tries.forget()
            self._move(State.UNLOADED)

    async def close(self) -> None:
        """As `stop`, and nothing is ever started again: `ready` raises OverCapacity."""
        self._closed = True
        await self.stop()

    def adopt(self, launched: LaunchedWorker, note: Note) -> None:
        """Goes on with a process that another gateway has made ready. The worker is unloaded, and was never started."""
        loop = asyncio.get_running_loop()
        self._launching = loop.create_future()
        self._launching.set_result(launched)
        self._settled: asyncio.Future[Failure | None] = loop.create_future()
        self._oom_kills = oom.kills()
        self._started_at = self._heard_at = loop.time() - note.load_seconds
        self._spec, self._port = note.spec(), note.port
        self._client = self._another_client()
        self.pid, self.info, self.environment = note.pid, dict(note.info), note.environment
        self._inner = loop.create_task(self._watch(launched.events(), self._spec))
        self._life = loop.create_task(self._live())
        self._move(State.READY, since=datetime.fromisoformat(note.loaded_at))

    def let_go(self) -> None:
        """Another gateway has the process. Requests under way go on; nothing is started or watched here any more."""
        self._closed = True
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None

    def come_back(self) -> None:
        """Nobody has taken the process over: all is as before `let_go`."""
        self._closed = False
        if self.state is State.READY:
            self._pulse = asyncio.create_task(self._feel_pulse())

    @property
    def settled(self) -> bool:
        """It has a ready process or none at all."""
        return self.state is State.READY or self._life is None or self._life.done()

    @property
    def progress(self) -> Progress | None:
        """Of the load under way."""
        return self._reports.latest

    @property
    def process(self) -> Process | None:
        """That of a ready worker."""
        if self.state is not State.READY or self._launching is None:
            return None
        return Process(self._launching.result(), self._spec, self._port)

    def tail(self, lines: int = 40) -> str:
        """The end of the present process's log; empty without one."""
        if self._launching is None or not self._launching.done() or self._launching.exception() is not None:
            return ""
        return self._launching.result().tail(lines)

    def _move(self, state: State, failure: Failure | None = None, since: datetime | None = None) -> None:
        """The one place where the state changes, with all that belongs to the change."""
        if state not in MOVES[self.state]:
            raise AssertionError(f"a worker cannot go from {self.state.value} to {state.value}")
        self.state = state
        self._reports.latest = None
        if state is State.PREPARING:
            self._settled = asyncio.get_running_loop().create_future()
        elif state is State.READY:
            self._lost = None
            self._pulse = asyncio.create_task(self._feel_pulse())
            self.failure = None
            self.loaded_at = since or datetime.now(UTC)
            self.load_seconds = asyncio.get_running_loop().time() - self._started_at
            assert self._launching is not None
            self._root = self._launching.result().pid  # that of a forked one was not known before
            self.memory.watch(self._root)
            self.memory.bytes()
            self._settle(None)
        elif state is State.STOPPING:
            self._settle(Failure("unloaded", f"model {self.models[0].name!r} was unloaded before it was ready"))
        elif state is State.FAILED and failure is not None:
            self.failure = self._tries.failed(failure)
            _log.warning("worker %s failed: %s: %s", self.models[0].name, failure.code, failure.message)
            self._settle(self.failure)
        elif state is State.UNLOADED:
            self.failure = None
        if state is not State.READY and self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None
        if state not in (*ON_THE_WAY, State.READY):
            self.pid = self.loaded_at = None
            self.memory.watch(None)
        self._on_change()

    def _settle(self, failure: Failure | None) -> None:
        if not self._settled.done():
            self._settled.set_result(failure)

    def _start(self, manual: bool) -> None:
        if manual:
            self._tries.forget()
        elif self.state is State.FAILED:
            self.restarts += 1
        self._move(State.PREPARING)
        self._inner = asyncio.create_task(self._bring_up_and_watch())
        self._life = asyncio.create_task(self._live())

    async def _live(self) -> None:
        """One life, from its start until nothing of it is left."""
        await asyncio.wait({self._inner})
        cause = self._cause()
        if self.state is not State.STOPPING:
            self._move(State.FAILED, cause)
        await self._end_process()
        self.info = {}
        if self.state is State.STOPPING:
            self._move(State.UNLOADED)

    async def _end_process(self) -> None:
        """On return nothing is left of the process, if there was one, nor of what it held of an accelerator."""
        if self._client is not None:
            await self._client.close(self._lost)
        if self._launching is not None:
            await asyncio.wait({self._launching})
            if self._launching.exception() is None:
                await self._launcher.stop(self._launching.result(), self._limits.grace)
                await self.memory.freed()
        self._client = self._launching = None

    def _cause(self) -> Failure:
        if self._inner.cancelled():
            if self._lost is not None:
                return Failure.of(self._lost, self.tail())
            return Failure("internal", "the start was cancelled")
        error = self._inner.exception()
        if isinstance(error, BainError):
            return Failure.of(error, self.tail())
        _log.error("a defect in the start of worker %s", self.models[0].name, exc_info=error)
        return Failure("internal", f"the start broke off: {error!r}", log_tail=self.tail())

    async def _bring_up_and_watch(self) -> None:
        """Never returns: raises what ended the start or the worker."""
        for tries_left in reversed(range(_PORTS)):
            spec = await self._prepare(self.models, self._progressed)
            self.environment = spec.environment
            if self.state is State.PREPARING:
                await self._admit()
                self._move(State.STARTING)
            self._progressed(Progress("process"))
            self._launching = asyncio.create_task(self._launcher.start(spec))
            launched = await asyncio.shield(self._launching)
            self._started_at = self._heard_at = asyncio.get_running_loop().time()
            self._root = launched.pid
            self._oom_kills = oom.kills()
            try:
                await self._watch(launched.events() if spec.door is None else readiness.events(launched, spec), spec)
            except LoadFailed as error:
                if error.code != readiness.PORT_TAKEN or self.state is State.READY or not tries_left:
                    raise
            await self._end_process()

    async def _watch(self, said: AsyncGenerator[Event, None], spec: LaunchSpec) -> None:
        async with aclosing(said) as events:
            while True:
                self._take(await self._next(events), spec)

    async def _feel_pulse(self) -> None:
        assert self._client is not None
        name = self.models[0].name
        asked = probe(name, foreign=self._spec.door is not None)
        pulse = Pulse(name, self._client, self._another_client, asked, self._root, self._limits)
        self._lost = await pulse.lost()
        self._inner.cancel()

    def _another_client(self) -> WorkerClient:
        return _client(self._spec, self._port, self.tail)

    async def _next(self, events: AsyncGenerator[Event, None]) -> Event:
        """The next event, or LoadFailed where it takes longer than the state allows."""
        limit = deadline(self.state, self.models[0].name, self._limits, self._started_at, self._heard_at)
        try:
            async with until(limit.at):
                event = await anext(events)
        except TimeoutError:
            hint = f"See `bain logs {self.models[0].name}`."
            raise LoadFailed(limit.message, code=limit.code, hint=hint, log_tail=self.tail()) from None
        self._heard_at = asyncio.get_running_loop().time()
        if isinstance(event, Failed):
            await self._last_words(events)
        return event

    async def _last_words(self, events: AsyncGenerator[Event, None]) -> None:
        """Lets a failed worker end, so that its log is complete."""
        try:
            async with asyncio.timeout(self._limits.last_words):
                async for _ in events:
                    pass
        except TimeoutError:
            _log.warning("worker %s failed and did not exit", self.models[0].name)

    def _take(self, event: Event, spec: LaunchSpec) -> None:
        if isinstance(event, Spawned):
            self.pid = event.pid
        elif isinstance(event, Listening):
            self._spec, self._port = spec, event.port
            self._client = self._another_client()
            if self.state is State.STARTING:
                self._move(State.LOADING)
        elif isinstance(event, WorkerProgress):
            self._progressed(_progress(event))
        elif isinstance(event, Ready):
            self.info = dict(event.info)
            self._move(State.READY)
        elif isinstance(event, Failed):
            raise LoadFailed(event.message, code=event.code, hint=event.hint, log_tail=self.tail())
        else:
            raise death(event, self.models[0].name, self.state, self.tail(), self._oom_kills)

    def _progressed(self, progress: Progress) -> None:
        if self.state not in ON_THE_WAY:  # a late word of a build that was given up
            return
        self._reports.tell(progress)
        self._on_change()


def _client(spec: LaunchSpec, port: int, tail: Callable[[], str]) -> WorkerClient:
    config = spec.config
    return WorkerClient(socket=config.socket, port=port, token=config.token, tail=tail, keep=spec.door is None)


def _progress(event: WorkerProgress) -> Progress:
    fraction = event.current / event.total if event.total else None
    return Progress(event.stage, fraction, event.detail, event.current, event.total, event.unit)
