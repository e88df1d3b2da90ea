"""What names of one worker have of their own, adapters and chat templates: each is loaded once, when first asked for,
and fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta

from bainmarie.catalog import ModelSpec
from bainmarie.engines.python_worker import served
from bainmarie.errors import BainError, LoadFailed, WorkerDied
from bainmarie.progress import Report
from bainmarie.workers.backoff import Attempt, BackOff, next_try
from bainmarie.workers.client import WorkerClient
from bainmarie.workers.failure import Failure
from bainmarie.workers.states import State
from bainmarie.workers.tries import iso
from bainmarie_protocol import paths

Check = Callable[[ModelSpec], None]
"""Reads a model's files and raises the LoadFailed that names what is wrong with them. Blocking."""
Foresee = Callable[[ModelSpec, Report], Awaitable[None]]
"""As Check, before the worker is started."""


@dataclass
class _Adapter:
    state: State = State.UNLOADED
    failure: Failure | None = None
    attempts: list[Attempt] = field(default_factory=list)
    retry: float = 0.0
    loading: asyncio.Task[BainError | None] | None = None
    judged: asyncio.Task[BainError | None] | None = None


class Adapters:
    """The adapters and configured chat templates of one worker's models, over all its lives."""

    def __init__(
        self,
        models: Iterable[ModelSpec],
        foresee: Foresee,
        check: Check,
        on_change: Callable[[], None],
        limit: float,
        back_off: BackOff,
    ) -> None:
        self._adapters = {model.name: _Adapter() for model in models if has_own(model)}
        self._templates = frozenset(model.name for model in models if has_own(model) and not model.adapter)
        self._foresee = foresee
        self._check = check
        self._on_change = on_change
        self._limit = limit
        self._back_off = back_off

    def state(self, name: str) -> State:
        return self._adapters[name].state

    def failure(self, name: str) -> Failure | None:
        return self._adapters[name].failure

    async def foresee(self, model: ModelSpec, report: Report | None, *, manual: bool = False) -> None:
        """While there is no worker: LoadFailed where it is known already that the adapter will not fit.

        One look for all who ask; a failure counts as that of a load does. A cancelled caller stops nothing.
        """
        adapter = self._adapters[model.name]
        if adapter.judged is None:
            self._may_try(adapter, manual)
            adapter.judged = asyncio.create_task(self._judge(model, report or (lambda progress: None)))
            adapter.judged.add_done_callback(lambda task: self._settle_judged(adapter, task))
        error = await asyncio.shield(adapter.judged)
        if error is not None:
            raise Failure.of(error).error()

    async def ready(self, model: ModelSpec, client: WorkerClient, *, manual: bool = False) -> None:
        """Waits until the worker behind `client` has the adapter; one load for all who ask.

        LoadFailed where it does not fit: the same for all, and without a new attempt until its next try, unless
        `manual`. WorkerDied where the worker dies meanwhile. A cancelled caller stops nothing.
        """
        adapter = self._adapters[model.name]
        if adapter.state is State.READY:
            return
        if adapter.loading is None:
            self._may_try(adapter, manual)
            adapter.state = State.LOADING
            adapter.loading = asyncio.create_task(self._load(model, client))
            adapter.loading.add_done_callback(lambda task: self._settle(adapter, task))
            self._on_change()
        error = await asyncio.shield(adapter.loading)
        if error is not None:
            raise Failure.of(error).error() if isinstance(error, LoadFailed) else error

    async def unload(self, model: ModelSpec, client: WorkerClient) -> None:
        """Drops the adapter. On return the worker holds nothing of it."""
        adapter = self._adapters[model.name]
        if adapter.loading is not None:
            await asyncio.wait({adapter.loading})
        if adapter.state is State.READY:
            adapter.state = State.UNLOADED
            await client.json("POST", paths.UNLOAD, {"name": model.name})
        self._forget(adapter)
        self._on_change()

    def reset(self) -> None:
        """The worker is gone and its adapters with it."""
        for adapter in self._adapters.values():
            adapter.loading = None
            adapter.state = State.FAILED if adapter.failure is not None else State.UNLOADED

    def adopt(self, names: Iterable[str]) -> None:
        """The worker has them already: another gateway has loaded them."""
        for name in names:
            self._adapters[name].state = State.READY

    def loaded(self) -> tuple[str, ...]:
        """The models whose adapter is."""
        ready = (name for name, adapter in self._adapters.items() if adapter.state is State.READY)
        return tuple(name for name in ready if name not in self._templates)

    def forget(self) -> None:
        """As `reset`, and earlier failures count no more."""
        for adapter in self._adapters.values():
            self._forget(adapter)

    def _may_try(self, adapter: _Adapter, manual: bool) -> None:
        if adapter.failure is not None and not manual and asyncio.get_running_loop().time() < adapter.retry:
            raise adapter.failure.error()
        if manual:
            adapter.attempts.clear()

    async def _judge(self, model: ModelSpec, report: Report) -> BainError | None:
        try:
            await self._foresee(model, report)
        except BainError as error:
            return _as_failed_load(error)
        return None

    async def _load(self, model: ModelSpec, client: WorkerClient) -> BainError | None:
        try:
            async with asyncio.timeout(self._limit):
                await asyncio.to_thread(self._check, model)
                await client.json("POST", paths.LOAD, asdict(served(model)))
        except TimeoutError:
            return LoadFailed(f"{model.name!r} did not load within {self._limit:g} s", code="load_too_long")
        except WorkerDied as error:
            return error
        except BainError as error:
            return _as_failed_load(error)
        return None

    def _settle_judged(self, adapter: _Adapter, task: asyncio.Task[BainError | None]) -> None:
        adapter.judged = None
        error = None if task.cancelled() else task.exception() or task.result()
        if isinstance(error, LoadFailed):
            self._failed(adapter, error)
            self._on_change()

    def _settle(self, adapter: _Adapter, task: asyncio.Task[BainError | None]) -> None:
        if task.cancelled():
            return
        error = task.exception() or task.result()
        if adapter.loading is not task:  # its worker is gone
            return
        adapter.loading = None
        if error is None:
            adapter.state, adapter.failure = State.READY, None
        elif isinstance(error, LoadFailed):
            self._failed(adapter, error)
        else:
            adapter.state = State.UNLOADED
        self._on_change()

    def _failed(self, adapter: _Adapter, error: LoadFailed) -> None:
        now = asyncio.get_running_loop().time()
        adapter.attempts = [*adapter.attempts, Attempt(now, crash=False)][-100:]
        adapter.retry = next_try(adapter.attempts, self._back_off) or now
        retry_at = iso(datetime.now(UTC) + timedelta(seconds=adapter.retry - now))
        adapter.state, adapter.failure = State.FAILED, replace(Failure.of(error), retry_at=retry_at)

    def _forget(self, adapter: _Adapter) -> None:
        adapter.state, adapter.failure = State.UNLOADED, None
        adapter.attempts.clear()


def has_own(model: ModelSpec) -> bool:
    """Whether the worker must load something for this name alone."""
    return model.adapter is not None or (model.chat_template is not None and model.engine != "command")


def _as_failed_load(error: BainError) -> LoadFailed:
    """Of this name alone, whatever the reason."""
    return LoadFailed(error.message, hint=error.hint, code=error.code, log_tail=error.log_tail)
