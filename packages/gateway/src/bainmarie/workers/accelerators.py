"""Accelerator memory, as far as the supervisor needs it: who holds how much, what is free, what may be used.

Where no driver answers there are no accelerators: nothing is measured, and a budget for them says why it is idle.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from bainmarie.settings.values import bytes_of
from bainmarie.workers.nvml import Card, NoDriver, cards
from bainmarie.workers.sizes import card

_log = logging.getLogger(__name__)

_LOOK = 0.02
"""Seconds between two looks at memory that is about to be free."""


class Accelerators:
    """Those of this machine. What is not async blocks, the first call for up to some seconds."""

    def __init__(
        self,
        budget: str | None = None,
        read: Callable[[], Sequence[Card]] = cards,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`budget`: a `Size`, of each accelerator."""
        self.budget = budget
        self._read = read
        self._visible = environ.get("CUDA_VISIBLE_DEVICES")
        self.reason = ""
        """Why there are none, once that is known."""

    def cards(self) -> Sequence[Card]:
        """Read anew; once no driver has answered, none is looked for any more."""
        if self.reason:
            return ()
        try:
            return self._read()
        except NoDriver as error:
            self.reason = str(error)
            if self.budget is not None:
                _log.warning("memory.gpu has no effect: %s", error)
            return ()

    def budgets(self) -> dict[str, int]:
        """By place; empty without a budget."""
        if self.budget is None:
            return {}
        return {card(one.number): bytes_of(self.budget, of=one.total) for one in self.cards()}

    def held_by(self, pids: Collection[int]) -> dict[str, int]:
        """What those processes hold, by place."""
        found: dict[str, int] = {}
        for one in self.cards() if pids else ():
            size = sum(size for pid, size in one.holders.items() if pid in pids)
            if size:
                found[card(one.number)] = size
        return found

    async def until_free_of(self, pids: Collection[int], seconds: float) -> bool:
        """Returns when the driver shows nothing of those processes any more; False where that takes too long."""
        deadline = time.monotonic() + seconds
        while await asyncio.to_thread(self.held_by, pids):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK)
        return True

    async def until_free(self, need: Mapping[str, int], seconds: float) -> Card | None:
        """Returns when the driver shows so much free; else the first accelerator that is too full after that time."""
        deadline = time.monotonic() + seconds
        while full := await asyncio.to_thread(self._too_full, need):
            if time.monotonic() > deadline:
                return full
            await asyncio.sleep(_LOOK)
        return None

    def _too_full(self, need: Mapping[str, int]) -> Card | None:
        return next((one for one in self.cards() if one.free < need.get(card(one.number), 0)), None)

    def for_programs(self) -> list[str]:
        """The places behind a program's cuda:0, cuda:1, ...: CUDA_VISIBLE_DEVICES leaves some out or turns them round.

        Without CUDA_DEVICE_ORDER=PCI_BUS_ID a program may count unlike cards in another order than the driver.
        """
        known = self.cards()
        if self._visible is None:
            return [card(one.number) for one in known]
        wanted = [entry.strip() for entry in self._visible.split(",")]
        return [
            card(one.number)
            for entry in wanted
            for one in known
            if entry and (entry == str(one.number) or (not entry.isdigit() and one.uuid.startswith(entry)))
        ]
