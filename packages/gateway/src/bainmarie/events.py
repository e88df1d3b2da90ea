"""News for whoever watches: state and progress of models, environments, runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LAGGED = "lagged"
"""The kind of the event that tells a slow subscriber how many it lost: {"lost": n}."""


class EventBus:
    """Publishing never waits. Each subscriber has its own queue of at most `size` events.

    A subscriber that falls behind loses the oldest, and finds one `lagged` event in their place.
    One event loop only.
    """

    def __init__(self, size: int = 1000) -> None:
        self._size = size
        self._subscribers: set[_Subscription] = set()

    def publish(self, kind: str, data: dict[str, object]) -> None:
        for subscription in self._subscribers:
            subscription.put(kind, data)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[tuple[str, dict[str, object]]]]:
        """Everything published from here on, without an end, as (kind, data)."""
        subscription = _Subscription(self._size)
        self._subscribers.add(subscription)
        try:
            yield subscription
        finally:
            self._subscribers.discard(subscription)


class _Subscription(AsyncIterator[tuple[str, dict[str, object]]]):
    def __init__(self, size: int) -> None:
        self._events: deque[tuple[str, dict[str, object]]] = deque(maxlen=size)
        self._lost = 0
        self._some = asyncio.Event()

    def put(self, kind: str, data: dict[str, object]) -> None:
        if len(self._events) == self._events.maxlen:
            self._lost += 1
        self._events.append((kind, data))
        self._some.set()

    async def __anext__(self) -> tuple[str, dict[str, object]]:
        while not self._events and not self._lost:
            self._some.clear()
            await self._some.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return LAGGED, {"lost": lost}
        return self._events.popleft()
