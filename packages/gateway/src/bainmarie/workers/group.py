"""The models that share one worker: who uses it, how long it stays, and how it is left."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bainmarie.catalog import ModelSpec
from bainmarie.errors import OverCapacity
from bainmarie.progress import Report
from bainmarie.workers.adapters import Adapters, has_own
from bainmarie.workers.admission import Admission
from bainmarie.workers.announcer import Announcer
from bainmarie.workers.client import WorkerClient
from bainmarie.workers.eviction import Use, expiry
from bainmarie.workers.failure import Failure
from bainmarie.workers.launch import LaunchedWorker
from bainmarie.workers.limits import Limits
from bainmarie.workers.note import LastUse, Note
from bainmarie.workers.sizes import Sizes, cards_only
from bainmarie.workers.states import State
from bainmarie.workers.status import ModelStatus
from bainmarie.workers.succession import Succession, note_of
from bainmarie.workers.tries import iso
from bainmarie.workers.turns import Turns
from bainmarie.workers.worker import Process, Worker

_log = logging.getLogger(__name__)


@dataclass
class _Usage:
    """One model's callers."""

    queued: int = 0
    in_flight: int = 0
    used: float | None = None
    """Loop time of the last use in the worker's present life; None where there was none."""
    used_at: datetime | None = None
    keep_alive: float | None = None
    """What the last request wished; None where it left that to the model."""


class Group:
    """One worker and its models. Callers are counted before they wait, so that nothing is evicted under them."""

    def __init__(
        self,
        models: Sequence[ModelSpec],
        make_worker: Callable[[Callable[[], None]], Worker],
        admission: Admission,
        make_adapters: Callable[[Callable[[], None]], Adapters],
        announcer: Announcer,
        limits: Limits,
        before: Sequence[Group] = (),
        *,
        identity: str = "",
        succession: Succession | None = None,
    ) -> None:
        """`before` are groups that must be gone, by `retire`, before the worker may start.

        `identity` says what the worker's process depends on, for the gateway that `succession` may hand it to.
        """
        self.models = models
        self.identity = identity
        self._succession = self._lent = succession
        self._adopted = False
        self._guests = False  # requests of a gateway that was replaced may be in the worker still; its end is told
        self.promised: Sizes | None = None
        """What its worker may take; None while it has none."""
        self._admission = admission
        self._before = tuple(before)
        self.worker = make_worker(self._worker_changed)
        self.announcer = announcer
        self.adapters = make_adapters(self._adapters_changed)
        self._limits = limits
        self._usage = {model.name: _Usage() for model in models}
        self._turns = {model.name: Turns(model.name, *self._bounds(model)) for model in models}
        self._gates: dict[str, asyncio.Future[None]] = {}  # models on their way out: new callers wait for the end
        self._left = asyncio.Event()
        self.retired = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def lease(
        self, model: ModelSpec, report: Report | None, keep_alive: float | None = None
    ) -> AsyncIterator[WorkerClient]:
        """A client of the ready worker; while it is held, the worker stays."""
        usage, turns = self._usage[model.name], self._turns[model.name]
        turns.check()
        with self._counted(usage):
            async with turns.turn():
                client = await self._ready(model, report)
                usage.queued, usage.in_flight = usage.queued - 1, usage.in_flight + 1
                try:
                    yield client
                finally:
                    usage.queued, usage.in_flight = usage.queued + 1, usage.in_flight - 1
                    usage.keep_alive = keep_alive

    async def load(self, model: ModelSpec, report: Report | None) -> None:
        """Makes the model ready, also after failures that a request may not try again."""
        usage = self._usage[model.name]
        with self._counted(usage, touch=model.keep_alive != 0):  # else it would go before its first request
            await self._ready(model, report, manual=True)

    def update(self, models: Sequence[ModelSpec]) -> None:
        """The same models with other wishes about how long they stay and how many may wait."""
        self.models = models
        for model in models:
            self._turns[model.name].limit(*self._bounds(model))
        self._watch_idleness()

    async def retire(self) -> bool:
        """Ends the worker once nobody uses it or waits for it. True where there was one: its successor is wanted.

        Whoever comes after this call is the successor's.
        """
        await self.unused()
        wanted = self.worker.state in (State.PREPARING, State.STARTING, State.LOADING, State.READY)
        await self.worker.close()
        self.retired.set()
        return wanted

    async def unused(self) -> None:
        """Returns when nobody uses the worker or waits for it."""
        while self._is_used():
            self._left.clear()
            await self._left.wait()

    def idle_seconds(self) -> float | None:
        """Since the last use of a ready worker; None where it may not be evicted: it is used, on its way or pinned."""
        pinned = any(model.pinned for model in self.models)
        if self.worker.state is not State.READY or self._is_used() or pinned or self._gates:
            return None
        last = max((usage.used or 0.0 for usage in self._usage.values()), default=0.0)
        return time.monotonic() - max(last, self._ready_since)

    async def evict(self) -> None:
        """Ends the worker if it is idle still. Whoever comes meanwhile waits, and then has it started anew."""
        if self.idle_seconds() is not None:
            with self._leaving([model.name for model in self.models]):
                await self.worker.stop()
                self.adapters.forget()

    async def unload(self, model: ModelSpec) -> None:
        """Frees the model: an adapter alone where the worker has other models in use, else the whole worker.

        Waits for requests in flight, at most `limits.drain` seconds. Callers who come meanwhile wait for the end and
        then start anew; those who wait for a load that is ended here get an error.
        """
        if gate := self._gates.get(model.name):
            await asyncio.shield(gate)
            return
        others = [m.name for m in self.models if m is not model and self._in_use(m.name)]
        alone = model.adapter is not None and bool(others)
        if alone and self.worker.state is not State.READY:
            return
        names = [model.name] if alone else [m.name for m in self.models]
        with self._leaving(names):
            if self.worker.state is State.READY:
                await self._drain(names)
            if alone and self.worker.state is State.READY:
                await self.adapters.unload(model, await self.worker.ready())
                self._usage[model.name].used = None
                return
            await self.worker.stop()
            self.adapters.forget()

    async def adopt(self, launched: LaunchedWorker, note: Note) -> None:
        """Goes on with the worker of another gateway. How long it stays counts from its last use there, if known."""
        await self._admission.promise(self)
        self._adopted = True
        self._guests = note.busy and self._succession is not None and self._succession.takes_over
        self.worker.adopt(launched, note)
        self.adapters.adopt(note.adapters)
        loop = asyncio.get_running_loop().time() - time.time()
        self._ready_since = datetime.fromisoformat(note.loaded_at).timestamp() + loop
        unknown = {model.name: LastUse(time.time()) for model in self.models if model.keep_alive != 0}
        for name, use in (note.uses or unknown).items():
            usage = self._usage[name]
            usage.used, usage.used_at = use.at + loop, datetime.fromtimestamp(use.at, UTC)
            usage.keep_alive = use.keep_alive
        self._watch_idleness()
        self.announcer.changed()

    def guests_left(self) -> None:
        """None of the requests of the gateway before this one is in the worker any more."""
        self._guests = False
        self._left.set()
        self._watch_idleness()

    def let_go(self) -> None:
        """Another gateway gets the worker if it is ready. Requests here go on to their end; nothing starts any more."""
        process = self.worker.process
        if process is not None and self._succession is not None:
            self._succession.release(process.launched, self._note(process))
        self._lent, self._succession = self._succession, None
        self._cancel_timer()
        self.worker.let_go()

    async def take_back(self) -> None:
        """The other gateway has died. A worker that cannot be had again is unloaded: the next request starts it."""
        self._succession = self._lent
        process = self.worker.process
        if process is not None and self._succession is not None:
            reason = await self._succession.regain(process.launched, self.worker.pid or 0)
            if reason:
                _log.warning("the worker of %r was lost with the other gateway: %s", self.models[0].name, reason)
                await self.worker.stop()
            self._adopted = True
            self._keep()
        self.worker.come_back()
        self._watch_idleness()

    def settle(self) -> None:
        """The gateway serves: its adopted workers cannot go back any more."""
        self._keep()

    def drain(self, error: OverCapacity) -> None:
        """Those who wait and those who come get that error; requests in flight go on."""
        for turns in self._turns.values():
            turns.close(error)

    async def close(self) -> None:
        """Ends the worker without waiting for requests. Nothing is started any more."""
        self._before = ()
        await self.worker.close()

    def status(self, model: ModelSpec) -> ModelStatus:
        """While a predecessor has not gone, what there is of it."""
        for group in self._before:
            if model.name in group._usage and not group.retired.is_set():
                old, queued = group.status(model), self._usage[model.name].queued
                return replace(old, queued=old.queued + queued)
        worker, usage = self.worker, self._usage[model.name]
        state, failure = self._state(model)
        up = state is State.READY
        return ModelStatus(
            id=model.name,
            state=state.value,
            engine=model.engine,
            environment=model.environment,
            environment_digest=worker.environment,
            worker=model.worker_key,
            pid=worker.pid or 0,
            in_flight=usage.in_flight,
            queued=usage.queued,
            restarts=worker.restarts,
            memory_bytes=worker.memory.bytes(),
            accelerator_bytes=cards_only(worker.memory.sizes()),
            loaded_at=iso(worker.loaded_at) if up and worker.loaded_at else "",
            last_used_at=iso(usage.used_at) if usage.used_at else "",
            progress=worker.progress if state is worker.state else None,
            last_error=failure,
            info=worker.info,
        )

    def _state(self, model: ModelSpec) -> tuple[State, Failure | None]:
        """An adapter that nobody asked for is not on its way, though its worker may be. A name with a chat template of
        its own is as its worker is, unless the template is broken."""
        worker = self.worker
        if model.adapter is None:
            failure = self.adapters.failure(model.name) if has_own(model) else None
            if failure is not None and worker.state in (State.READY, State.UNLOADED):
                return State.FAILED, failure
            return worker.state, worker.failure
        if worker.state is State.READY:
            return self.adapters.state(model.name), self.adapters.failure(model.name)
        if worker.state is State.UNLOADED:
            return self.adapters.state(model.name), self.adapters.failure(model.name)
        if worker.state is State.FAILED or self._in_use(model.name):
            return worker.state, worker.failure
        return State.UNLOADED, worker.failure

    def _bounds(self, model: ModelSpec) -> tuple[int, int]:
        parallel = self._limits.parallel if model.parallel is None else model.parallel
        return parallel, self._limits.queue if model.queue is None else model.queue

    def _in_use(self, name: str) -> bool:
        usage = self._usage[name]
        return bool(usage.queued or usage.in_flight or usage.used is not None)

    async def _ready(self, model: ModelSpec, report: Report | None, manual: bool = False) -> WorkerClient:
        while gate := self._gates.get(model.name):
            await asyncio.shield(gate)
        for group in self._before:
            await group.retired.wait()
        self._before = ()
        if model.adapter is not None and self.worker.state is not State.READY:
            await self.adapters.foresee(model, report, manual=manual)
        client = await self.worker.ready(report, manual=manual)
        if has_own(model):
            await self.adapters.ready(model, client, manual=manual)
        return client

    @contextmanager
    def _counted(self, usage: _Usage, touch: bool = True) -> Iterator[None]:
        usage.queued += 1
        self._cancel_timer()
        try:
            yield
        finally:
            usage.queued -= 1
            if touch:
                usage.used, usage.used_at = asyncio.get_running_loop().time(), datetime.now(UTC)
            self._left.set()
            self._watch_idleness()

    @contextmanager
    def _leaving(self, names: Sequence[str]) -> Iterator[None]:
        gate = asyncio.get_running_loop().create_future()
        self._cancel_timer()
        self._gates |= dict.fromkeys(names, gate)
        try:
            yield
        finally:
            for name in names:
                del self._gates[name]
            gate.set_result(None)
            self._watch_idleness()

    async def _drain(self, names: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(self._limits.drain):
                while self._guests or any(self._usage[name].in_flight for name in names):
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:  # the person who unloads has waited long enough; the requests end with an error
            return

    def _watch_idleness(self) -> None:
        """Without callers: sets the time at which the worker goes."""
        self._cancel_timer()
        if self._is_used() or self._gates or self.worker.state is not State.READY:
            return
        self.worker.memory.bytes()  # what it has grown to is remembered
        when = expiry(self._uses())
        if when < math.inf:
            self._timer = asyncio.get_running_loop().call_at(when, self.worker.end)

    def _uses(self) -> Iterator[Use]:
        for model in self.models:
            usage = self._usage[model.name]
            if usage.used is not None:
                keep = model.keep_alive if usage.keep_alive is None else usage.keep_alive
                yield Use(max(usage.used, self._ready_since), None if keep == math.inf else keep)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_used(self) -> bool:
        return self._guests or any(usage.queued or usage.in_flight for usage in self._usage.values())

    def _note(self, process: Process) -> Note:
        uses = {
            name: LastUse(usage.used_at.timestamp(), usage.keep_alive)
            for name, usage in self._usage.items()
            if usage.used is not None and usage.used_at is not None
        }
        return note_of(self.worker, process, self.identity, self.adapters.loaded(), uses, self._is_used())

    def _keep(self) -> None:
        process = self.worker.process
        if process is not None and self._succession is not None:
            self._succession.keep(process.launched, self._note(process), adopted=self._adopted)

    def _adapters_changed(self) -> None:
        self._keep()
        self.announcer.changed()

    def _worker_changed(self) -> None:
        state = self.worker.state
        if state is State.READY:
            self._ready_since = asyncio.get_running_loop().time()
            self._watch_idleness()
            self._keep()
        elif state is State.UNLOADED:
            self.promised = None
        elif state in (State.STOPPING, State.FAILED):
            self._admission.ended(self)
            if state is State.FAILED:
                self.promised = None
            self._cancel_timer()
            self._adopted = False
            self.adapters.reset()
            for usage in self._usage.values():
                usage.used = None
        self.announcer.changed()
