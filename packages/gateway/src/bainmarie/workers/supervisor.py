"""Owns all workers: `async with supervisor.lease(name)` gives a ready one, started once for everybody who asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.engines.python_worker import log_path
from bainmarie.environments.checkpoint import check_model_files
from bainmarie.environments.infer import infer
from bainmarie.errors import BainError, OverCapacity
from bainmarie.events import EventBus
from bainmarie.progress import Report
from bainmarie.workers.accelerators import Accelerators
from bainmarie.workers.adapter_check import check_adapter, foresee_adapter
from bainmarie.workers.adapters import Adapters
from bainmarie.workers.admission import Admission
from bainmarie.workers.adoption import take_over
from bainmarie.workers.announcer import Announcer
from bainmarie.workers.backoff import BackOff
from bainmarie.workers.changes import changes, identity
from bainmarie.workers.client import WorkerClient
from bainmarie.workers.eviction_plan import Plan
from bainmarie.workers.footprints import Footprint, Footprints
from bainmarie.workers.group import Group
from bainmarie.workers.launch import Launcher, LocalLauncher, tail
from bainmarie.workers.limits import Limits
from bainmarie.workers.prepare import Environments, Preparation
from bainmarie.workers.records import Records
from bainmarie.workers.status import ModelStatus
from bainmarie.workers.succession import Succession
from bainmarie.workers.worker import Prepare, Worker

__all__ = ["Lease", "ModelStatus", "Supervisor"]


@dataclass(frozen=True)
class Lease:
    """A ready model. Valid inside its `async with` alone."""

    spec: ModelSpec
    client: WorkerClient


class Supervisor:
    """All models of a catalog. One event loop only.

    A load belongs to the model: callers may leave, it goes on. `prepare` replaces the way from files and environments
    to a start.
    """

    def __init__(
        self,
        catalog: Catalog,
        environments: Environments,
        launcher: Launcher,
        home: Path,
        events: EventBus,
        *,
        environ: Mapping[str, str] = os.environ,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        back_off: BackOff = BackOff(),  # noqa: B008 (frozen)
        prepare: Prepare | None = None,
        budget: int | None = None,
        accelerators: Accelerators | None = None,
        succession: Succession | None = None,
    ) -> None:
        """`budget`: bytes of main memory for all workers together. Without `succession` none outlives its gateway."""
        self._catalog = catalog
        self._home = home
        self._launcher = launcher
        self._environments = environments
        self._events = events
        self._limits = limits
        self._back_off = back_off
        self._prepare = prepare or Preparation(catalog, environments, home, environ, check_model_files, infer)
        self._succession = succession
        self._groups: dict[str, Group] = {}
        self._accelerators = accelerators or Accelerators()
        self._admission = Admission(
            budget,
            self._accelerators,
            Footprints(home / "footprints.json", self._accelerators.for_programs),
            lambda: (*self._retiring.values(), *self._groups.values()),
        )
        self._retiring: dict[asyncio.Task[bool], Group] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._draining: OverCapacity | None = None
        for model in catalog:
            if model.worker_key not in self._groups:
                self._groups[model.worker_key] = self._group(catalog.sharing(model))

    @asynccontextmanager
    async def lease(
        self, name: str, report: Report | None = None, keep_alive: float | None = None
    ) -> AsyncIterator[Lease]:
        """A ready model, started if need be; it is not evicted while the lease is held.

        `keep_alive` goes before the model's own after this use (infinity: for ever).
        `report` hears the progress while the caller waits. NotFound, LoadFailed, EnvironmentFailed; OverCapacity while
        the gateway shuts down. After a failure everybody gets that same failure at once, until its next try.
        """
        spec = self._catalog.get(name)
        async with self._groups[spec.worker_key].lease(spec, report, keep_alive) as client:
            yield Lease(spec, client)

    async def load(self, name: str, report: Report | None = None) -> None:
        """Makes the model ready, a failed one too. Errors as `lease`."""
        spec = self._catalog.get(name)
        await self._groups[spec.worker_key].load(spec, report)

    async def unload(self, name: str) -> None:
        """On return the model is unloaded: an adapter is dropped, a base's whole process is gone. Idempotent.

        Requests in flight may end first, within `limits.drain`.
        """
        spec = self._catalog.get(name)
        await self._groups[spec.worker_key].unload(spec)

    async def plan(self, name: str) -> tuple[Plan, Footprint]:
        """What loading the model would take and cost: memory, evictions, and the time of its last load."""
        group = self._groups[self._catalog.get(name).worker_key]
        return await self._admission.plan(group), await asyncio.to_thread(self._admission.footprint, group)

    def status(self) -> list[ModelStatus]:
        """Every model, in the catalog's order. Answered from memory."""
        return [self.status_of(model.name) for model in self._catalog]

    def status_of(self, name: str) -> ModelStatus:
        spec = self._catalog.get(name)
        return self._groups[spec.worker_key].status(spec)

    def log_path(self, name: str) -> Path:
        """Where the log of the model's worker is, or would be."""
        return log_path(self._catalog.sharing(self._catalog.get(name)), self._home)

    def tail(self, name: str, lines: int = 100) -> str:
        """The end of the log of the model's worker, of its latest start."""
        return tail(self.log_path(name), lines)

    def drain(self) -> None:
        """From now on nothing can be leased; who waits is told so. Leases that are held stay."""
        self._draining = OverCapacity("the gateway is shutting down", code="shutting_down")
        for group in (*self._groups.values(), *self._retiring.values()):
            group.drain(self._draining)

    async def adopt(self, records: Records, launcher: LocalLauncher) -> None:
        """Goes on with what a former gateway has left alive, and ends the rest. Before anything is started."""
        await take_over(records, launcher, self._groups)

    def unsettled(self) -> list[str]:
        """Models whose worker is on its way up or down: not to be handed over now."""
        moving = [group for group in self._groups.values() if not group.worker.settled]
        return [group.models[0].name for group in (*self._retiring.values(), *moving)]

    def hand_over(self) -> None:
        """Every ready worker is another gateway's. Requests under way, or waiting for their turn, still end here."""
        self._draining = OverCapacity("another gateway has taken over", code="shutting_down")
        for group in self._groups.values():
            group.let_go()

    async def take_back(self) -> None:
        """The gateway that was to have the workers has died before it served: they are ours, those that live still."""
        await asyncio.gather(*(group.take_back() for group in self._groups.values()))
        self._draining = None

    def settle(self) -> None:
        """The gateway serves: no predecessor can have its workers back any more."""
        if self._succession is not None and self._succession.takes_over:
            self._succession.takes_over = False
            for group in self._groups.values():
                group.settle()

    def predecessor_left(self) -> None:
        """The gateway that handed its workers over uses none of them any more."""
        for group in (*self._groups.values(), *self._retiring.values()):
            group.guests_left()

    async def unused(self) -> None:
        """Returns when no request is at a worker or waits for one."""
        await asyncio.gather(*(group.unused() for group in self._groups.values()))

    def preload(self) -> None:
        """Begins the loads that the catalog asks for. What fails stands in the status."""
        for model in self._catalog:
            if model.preload:
                self._begin(model)

    def reload(self, catalog: Catalog) -> None:
        """The models as `catalog` has them, from now on. Only what has changed restarts, after its requests end.

        Requests that come meanwhile wait for the new worker. A worker that was up is loaded anew by itself.
        """
        if self._draining is not None:
            return
        change = changes(self._catalog, catalog)
        old = {key: self._groups.pop(key) for key in change.ended}
        self._catalog.become(catalog)
        for key, models in change.kept.items():
            self._groups[key].update(models)
        for key, (models, before) in change.begun.items():
            self._groups[key] = self._group(models, [old[e] for e in before])
        for key, group in old.items():
            after = next((models[0] for models, before in change.begun.values() if key in before), None)
            self._retire(group, after)
        for models, before in change.begun.values():
            for model in models:
                if model.preload and not before:
                    self._begin(model)

    async def close(self) -> None:
        """Ends all workers, all at once. Nothing can be leased any more. On return no process is left."""
        self._draining = self._draining or OverCapacity("the gateway is shutting down", code="shutting_down")
        await asyncio.gather(*(group.close() for group in (*self._groups.values(), *self._retiring.values())))
        for task in (*self._loads, *self._retiring):
            task.cancel()
        for group in self._groups.values():
            group.announcer.close()

    def _retire(self, group: Group, successor: ModelSpec | None) -> None:
        def over(task: asyncio.Task[bool]) -> None:
            self._retiring.pop(task).announcer.close()
            if not task.cancelled() and task.result() and successor is not None:
                self._begin(successor)

        task = asyncio.create_task(group.retire())
        self._retiring[task] = group
        task.add_done_callback(over)

    def _begin(self, model: ModelSpec) -> None:
        """A load that nobody waits for."""
        if self._draining is None:
            task = asyncio.create_task(self._load_quietly(model.name))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    async def _load_quietly(self, name: str) -> None:
        with suppress(BainError):  # it stands in the model's status, or the model is not there any more
            await self.load(name)

    def _group(self, models: Sequence[ModelSpec], before: Sequence[Group] = ()) -> Group:
        announcer = Announcer(self._events, lambda: [group.status(model) for model in models])
        limits, back_off = self._limits, self._back_off

        async def admit() -> None:
            await self._admission.admit(group)

        def check(model: ModelSpec) -> None:
            check_adapter(model, group.worker.info, self._catalog)

        async def foresee(model: ModelSpec, report: Report) -> None:
            await foresee_adapter(model, self._catalog, self._environments, report)

        group = Group(
            models,
            lambda changed: Worker(
                models, self._prepare, self._launcher, changed, limits, back_off, admit, self._accelerators
            ),
            self._admission,
            lambda changed: Adapters(models, foresee, check, changed, limits.adapter, back_off),
            announcer,
            limits,
            before,
            identity=identity(self._catalog, tuple(models)),
            succession=self._succession,
        )
        return group
