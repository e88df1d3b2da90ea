"""How much memory a worker's process tree holds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from bainmarie.workers.accelerators import Accelerators
from bainmarie.workers.sizes import MAIN, Sizes, largest
from bainmarie.workers.tree import below

_log = logging.getLogger(__name__)

_FRESH = 5.0
"""Seconds for which a measurement is shown again. Reading it walks the page tables of the whole tree."""


_FREED = 10.0
"""Seconds for the driver to take back the memory of a process that is gone."""


class MemoryGauge:
    """The memory of a process tree, measured beside the event loop and only while somebody asks."""

    def __init__(self, measure: Callable[[int], int] | None = None, accelerators: Accelerators | None = None) -> None:
        self._size_of = measure or tree_memory
        self._accelerators = accelerators
        self.peak: Sizes = {}
        """The largest measurements of the latest process, also after its end."""
        self._holders: frozenset[int] = frozenset()  # of accelerator memory, also after their end
        self.watch(None)

    def watch(self, pid: int | None) -> None:
        """From now on the tree below `pid`, measured anew; None: there is no process."""
        if pid is not None:
            self.peak, self._holders = {}, frozenset()
        self._pid = pid
        self._sizes: Sizes = {}
        self._measured = -_FRESH
        self._task: asyncio.Task[None] | None = None

    def bytes(self) -> int:
        """Of main memory: the latest measurement; asks for a new one where it is old."""
        return self.sizes().get(MAIN, 0)

    def sizes(self) -> Sizes:
        """The same for every place that it holds memory in."""
        if self._pid is not None and self._task is None and time.monotonic() - self._measured > _FRESH:
            self._task = asyncio.get_running_loop().create_task(self._measure(self._pid))
        return self._sizes

    async def freed(self) -> None:
        """Returns when the driver shows the accelerator memory of the latest process free. It has ended."""
        accelerators, holders = self._accelerators, self._holders
        if accelerators is None or not holders:
            return
        if not await accelerators.until_free_of(holders, _FREED):
            _log.error("the driver shows accelerator memory of processes that are gone: %s", sorted(holders))

    async def _measure(self, pid: int) -> None:
        task = self._task
        sizes, holders = await asyncio.to_thread(self._look, pid)
        if task is self._task:  # else something else is watched by now
            self._sizes, self._measured, self._task = sizes, time.monotonic(), None
            self.peak = largest(self.peak, sizes)
            self._holders |= holders

    def _look(self, pid: int) -> tuple[Sizes, frozenset[int]]:
        sizes = {MAIN: self._size_of(pid)}
        if self._accelerators is None:
            return sizes, frozenset()
        tree = frozenset((pid, *below(pid)))
        held = self._accelerators.held_by(tree)
        return {**sizes, **held}, tree if held else frozenset()


def tree_memory(pid: int) -> int:
    """Bytes held below `pid`: proportional shares (PSS) where the system tells them, else resident sizes.

    Shared pages of a mapped weights file are thus counted once over all workers. 0 where the process is gone.
    """
    return sum(process_memory(process) for process in below(pid) if not _is_init(process, pid))


def _is_init(pid: int, shim: int) -> bool:
    """Whether it is the first of a PID namespace that the shim made: its pages are the shim's, shared by a fork."""
    with suppress(OSError, psutil.Error):
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
        return len(numbers) > 1 and numbers[-1] == "1" and psutil.Process(pid).ppid() == shim
    return False


def process_memory(pid: int) -> int:
    """The same for one process alone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux, not ours, or gone
        pass
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
