"""Whether a worker may start: within the memory budget, by making room where idle ones hold it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bainmarie.errors import LoadFailed
from bainmarie.workers.eviction_plan import Holder, Plan, plan
from bainmarie.workers.footprints import Footprint, Footprints

if TYPE_CHECKING:
    from bainmarie.workers.group import Group

_GIB = 2**30


class Admission:
    """The memory of one machine. One decision at a time, so that none counts on memory that another was promised."""

    def __init__(self, budget: int | None, footprints: Footprints, groups: Callable[[], Iterable[Group]]) -> None:
        self._budget = budget
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
                    return
                first = found.evict[0].key
                for other in self._groups():
                    if other.models[0].worker_key == first:
                        await other.evict()

    async def promise(self, group: Group) -> None:
        """Takes the worker of `group` into account though nobody has admitted it: it runs already."""
        group.promised = (await asyncio.to_thread(self.footprint, group)).bytes

    async def plan(self, group: Group) -> Plan:
        """What starting that worker would take, and cost others."""
        need = await asyncio.to_thread(self.footprint, group)
        others = [other for other in self._groups() if other is not group and other.promised is not None]
        return plan(need.bytes, self._budget, [self._holder(other) for other in others])

    def footprint(self, group: Group) -> Footprint:
        """Blocking: an estimate reads the headers of the weights."""
        return self._footprints.of(group.models[0])

    def ended(self, group: Group) -> None:
        """Takes note of what the worker took, now that it is gone or going."""
        worker = group.worker
        self._footprints.remember(group.models[0].worker_key, worker.memory.peak, worker.load_seconds)

    def _holder(self, group: Group) -> Holder:
        size = group.worker.memory.peak or group.promised or 0
        names = tuple(model.name for model in group.models)
        return Holder(group.models[0].worker_key, names, size, group.idle_seconds(), group.worker.load_seconds)


def _full(name: str, found: Plan) -> LoadFailed:
    held = ", ".join(f"{holder.names[0]} {holder.bytes / _GIB:.2f} GiB" for holder in found.stays) or "nobody"
    assert found.budget is not None
    return LoadFailed(
        f"{name!r} needs {found.need / _GIB:.2f} GiB and does not fit into {found.budget / _GIB:.2f} GiB; "
        f"held and in use: {held}",
        hint="Unload one of them, raise memory.cpu, or wait until one is idle.",
        code="memory_full",
    )
