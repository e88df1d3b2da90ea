"""One active run, as those who follow it see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from bainmarie.agent.events import RunEvent
from bainmarie.agent.request import RunRequest

DONE = "done"
"""The kind of the last event."""


class Run:
    """A run from its start to its `done` event. It goes on whether anybody follows it or not."""

    def __init__(self, run_id: str, request: RunRequest) -> None:
        self.id = run_id
        self.request = request
        self._events: list[RunEvent] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    @property
    def finished(self) -> bool:
        return bool(self._events) and self._events[-1].kind == DONE

    async def events(self) -> AsyncGenerator[RunEvent, None]:
        """Every event from the first to `done`; each follower sees all of them."""
        seen = 0
        while True:
            for event in self._events[seen:]:
                yield event
                seen += 1
                if event.kind == DONE:
                    return
            if seen == len(self._events):
                await self._news.wait()

    async def ended(self) -> dict[str, object]:
        """The data of the `done` event, when it is there."""
        while not self.finished:
            await self._news.wait()
        return self._events[-1].data

    def cancel(self) -> None:
        """End it soon: what runs is stopped, then `done` follows. Nothing happens to a run that has ended."""
        # Once: a second cancel would cut the clean-up short. And not before the first step, which would skip it.
        if not self._cancelled and self._task is not None and not self.finished:
            self._task.cancel()
        self._cancelled = True

    def tell(self, event: RunEvent) -> None:
        """Add an event and wake the followers."""
        self._events.append(event)
        self._news.set()
        self._news = asyncio.Event()

    def begin(self) -> bool:
        """For the task that does the run, as its first step. False where it was cancelled before it began."""
        self._task = asyncio.current_task()
        return not self._cancelled
