"""When a worker that has failed may be started again, and what its failure says of that."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bainmarie.workers.backoff import Attempt, BackOff, next_try
from bainmarie.workers.failure import Failure

_REMEMBERED = 100
"""Failures; more of them change nothing."""


class Tries:
    """Of one worker, through all its lives."""

    def __init__(self, back_off: BackOff) -> None:
        self._back_off = back_off
        self._failures: list[Attempt] = []
        self._next: float | None = 0.0

    def failed(self, failure: Failure) -> Failure:
        """Counts it. Returns it with the time of the next try, or how to have one where there is none."""
        now = asyncio.get_running_loop().time()
        self._failures = [*self._failures, Attempt(now, failure.crash)][-_REMEMBERED:]
        self._next = next_try(self._failures, self._back_off)
        if self._next is None:
            hint = "It failed too often to be started again by itself: `bain load` starts it. See `bain logs` too."
            return replace(failure, hint=f"{failure.hint} {hint}".strip())
        return replace(failure, retry_at=iso(datetime.now(UTC) + timedelta(seconds=self._next - now)))

    def may_try(self) -> bool:
        return self._next is not None and asyncio.get_running_loop().time() >= self._next

    def forget(self) -> None:
        """A person has asked for a start, or for the end."""
        self._failures.clear()


def iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
