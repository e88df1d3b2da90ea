"""Whether a worker may start: within the memory budget, by making room where idle ones hold it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from bainmarie.errors import LoadFailed
from bainmarie.workers.accelerators import Accelerators
from bainmarie.workers.eviction_plan import Holder, Plan, plan
from bainmarie.workers.footprints import Footprint, Footprints
from bainmarie.workers.nvml import Card
from bainmarie.workers.sizes import MAIN, card, cards_only
from bainmarie.workers.states import State

if TYPE_CHECKING:
    from bainmarie.workers.group import Group

_GIB = 2**30
_FREE = 10.0
"""Seconds for the driver to show free what the budget has room for: what has ended a moment ago may be held still."""


class Admission:
    """The memory of one machine. One decision at a time, so that none counts on memory that another was promised."""

    def __init__(
        self,
        budget: int | None,
        accelerators: Accelerators,
        footprints: Footprints,
        groups: Callable[[], Iterable[Group]],
    ) -> None:
        """`budget`: bytes of main memory; the accelerators know their own."""
        self._budget = budget
        self._accelerators = accelerators
        self._footprints = footprints
        self._groups = groups
        self._one = asyncio.Lock()

    async def admit(self, group: Group) -> None:
        """Returns when there is room, which is the worker's from then on. LoadFailed says who holds what."""
        async with self._one:
            while True:
                found = await self.plan(group)
                if not found.fits:
                    raise _full(group.models[0].name, found)
                if not found.evict:
                    group.promised = found.need
                    break
                first = found.evict[0].key
                for other in self._groups():
                    if other.models[0].worker_key == first:
                        await other.evict()
        await self._until_free(group, found)

    async def promise(self, group: Group) -> None:
        """Takes the worker of `group` into account though nobody has admitted it: it runs already."""
        group.promised = (await asyncio.to_thread(self.footprint, group)).sizes

    async def plan(self, group: Group) -> Plan:
        """What starting that worker would take, and cost others."""
        need = (await asyncio.to_thread(self.footprint, group)).sizes
        budget = await asyncio.to_thread(self._budgets)
        others = [other for other in self._groups() if other is not group and other.promised is not None]
        return plan({MAIN: 0, **need}, budget, [self._holder(other) for other in others])

    def footprint(self, group: Group) -> Footprint:
        """What it takes now, else what it took or may take. Blocking: an estimate reads the headers of the weights."""
        worker = group.worker
        if worker.state is State.READY and worker.memory.peak.get(MAIN):
            return Footprint(dict(worker.memory.peak), worker.load_seconds, measured=True)
        return self._footprints.of(group.models[0])

    def ended(self, group: Group) -> None:
        """Takes note of what the worker took, now that it is gone or going.

        Of a worker on an accelerator of which the driver tells no processes, as in a container, the promise stays true.
        """
        worker, sizes = group.worker, group.worker.memory.peak
        if not cards_only(sizes) and "cuda" in str(worker.info.get("device", "")):
            sizes = {**cards_only(group.promised or {}), **sizes}
        self._footprints.remember(group.models[0].worker_key, sizes, worker.load_seconds)

    async def _until_free(self, group: Group, found: Plan) -> None:
        """Returns when the driver shows free what was promised. Others are admitted meanwhile."""
        need = {place: size for place, size in found.need.items() if place in found.budget and place != MAIN}
        if not need:
            return
        full = await self._accelerators.until_free(need, _FREE)
        if full is not None:
            raise _held_by_others(group.models[0].name, need[card(full.number)], full)

    def _budgets(self) -> Mapping[str, int]:
        main = {} if self._budget is None else {MAIN: self._budget}
        return {**main, **self._accelerators.budgets()}

    def _holder(self, group: Group) -> Holder:
        sizes = {**(group.promised or {}), **{p: s for p, s in group.worker.memory.peak.items() if s}}
        names = tuple(model.name for model in group.models)
        return Holder(group.models[0].worker_key, names, sizes, group.idle_seconds(), group.worker.load_seconds)


def _full(name: str, found: Plan) -> LoadFailed:
    place = found.lacking[0]
    in_use = [h for h in found.stays if h.idle_seconds is None and h.sizes.get(place)]
    who = [f"{h.names[0]} {_gib(h.sizes[place])}" for h in in_use]
    where, key = ("", "memory.cpu") if place == MAIN else (f" of {place}", "memory.gpu")
    alone = found.need[place] > found.budget[place]
    return LoadFailed(
        f"{name!r} needs {_gib(found.need[place])}{where} and does not fit into {_gib(found.budget[place])}; "
        f"held and in use: {', '.join(who) or 'nobody'}",
        hint=f"It alone takes more than {key} allows: raise that, or choose a smaller model or quantization."
        if alone
        else f"Unload one of them, raise {key}, or wait until one is idle.",
        code="memory_full",
    )


def _held_by_others(name: str, need: int, full: Card) -> LoadFailed:
    who = ", ".join(f"pid {pid}{_named(pid)} {_gib(size)}" for pid, size in full.holders.items())
    return LoadFailed(
        f"{name!r} needs {_gib(need)} of {card(full.number)} ({full.name}), and the driver shows {_gib(full.free)} of "
        f"{_gib(full.total)} free; held: {who or 'by nobody that it names'}",
        hint="End what else uses it, or lower memory.gpu so that idle models are unloaded earlier.",
        code="memory_full",
    )


def _named(pid: int) -> str:
    with suppress(psutil.Error):
        return f" ({psutil.Process(pid).name()})"
    return ""


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB"
