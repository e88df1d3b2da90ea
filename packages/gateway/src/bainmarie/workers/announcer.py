"""Publishes a model's status whenever its state or progress has changed, progress at most ten times a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from bainmarie.events import EventBus
from bainmarie.workers.status import ModelStatus

_GAP = 0.1


class Announcer:
    """For the models of one worker. `status` gives their present statuses."""

    def __init__(self, events: EventBus, status: Callable[[], Sequence[ModelStatus]]) -> None:
        self._events = events
        self._status = status
        self._said: dict[str, ModelStatus] = {}
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """A new state is said at once; new progress now or, if the last news is fresh, a little later."""
        news = [status for status in self._status() if _is_news(self._said.get(status.id), status)]
        if not news:
            return
        loop = asyncio.get_running_loop()
        moved = any(self._said.get(status.id, status).state != status.state for status in news)
        if moved or not self._said or loop.time() - self._last >= _GAP:
            self._last = loop.time()
            for status in news:
                self._said[status.id] = status
                self._events.publish("model", status.to_json())
        elif self._timer is None:
            self._timer = loop.call_later(_GAP, self._later)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _later(self) -> None:
        self._timer = None
        self.changed()


def _is_news(said: ModelStatus | None, status: ModelStatus) -> bool:
    if said is None:
        return status.state != "unloaded"
    seen, now = ((s.state, s.progress, s.last_error, s.pid) for s in (said, status))
    return seen != now
