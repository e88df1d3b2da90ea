"""Who may use a model now, who waits, and who is sent away: first come, first served."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bainmarie.errors import OverCapacity, QueueFull

_UNKNOWN = 5.0
"""Seconds that a request is thought to take before one has ended."""
_WEIGHT = 0.2
"""Of the latest request in the running mean of their times."""


class Turns:
    """The turns at one model: at most `parallel` at once, at most `queue` waiting. One event loop only."""

    def __init__(self, name: str, parallel: int, queue: int) -> None:
        self._name = name
        self._parallel = parallel
        self._queue = queue
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._seconds: float | None = None
        self._closed: OverCapacity | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Holds a turn, waiting for it in line. QueueFull where the line is full; OverCapacity after `close`."""
        self.check()
        if self._taken < self._parallel and not self._waiting:
            self._taken += 1
        else:
            await self._wait()
        began = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._ended(asyncio.get_running_loop().time() - began)
            self._pass_on()

    def check(self) -> None:
        """Raises what `turn` would raise at once."""
        if self._closed is not None:
            raise _again(self._closed)
        line = len(self._waiting)
        if self._taken >= self._parallel and line >= self._queue:
            raise QueueFull(
                f"{self._taken} requests for {self._name!r} run and {line} wait: no more are taken",
                hint="Try again later, or raise `queue` or `parallel` of the model.",
                retry_after=retry_after(line, self._parallel, self._seconds or _UNKNOWN),
            )

    def limit(self, parallel: int, queue: int) -> None:
        """Other limits from now on; nobody who is in loses a place."""
        self._parallel, self._queue = parallel, queue
        while self._taken < self._parallel and self._waiting:
            self._taken += 1
            self._pass_on()

    def close(self, error: OverCapacity) -> None:
        """Those who wait and those who come get that error; those who have a turn keep it."""
        self._closed = error
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(_again(error))
        self._waiting.clear()

    async def _wait(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._pass_on()  # the turn came at the very moment at which its caller left
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def _pass_on(self) -> None:
        """The turn goes to the next in line, if there is one and it may."""
        while self._waiting and self._taken <= self._parallel:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._taken -= 1

    def _ended(self, seconds: float) -> None:
        self._seconds = seconds if self._seconds is None else self._seconds + _WEIGHT * (seconds - self._seconds)


def retry_after(waiting: int, parallel: int, seconds: float) -> int:
    """Whole seconds until a line of `waiting` has had its turns, where one takes `seconds`; from 1 to 600."""
    return max(1, min(600, math.ceil(max(1, waiting) / parallel * seconds)))


def _again(error: OverCapacity) -> OverCapacity:
    """A new exception for each who raises it in a task of its own."""
    return OverCapacity(error.message, hint=error.hint, code=error.code, retry_after=error.retry_after)
