"""When a worker that failed may be tried again: a pure function over its past failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BackOff:
    """Gaps that double from `first` to `longest` seconds; too many crashes within `window` seconds end the attempts."""

    first: float = 1.0
    longest: float = 60.0
    crashes: int = 5
    window: float = 600.0


@dataclass(frozen=True)
class Attempt:
    """One failure of the past."""

    at: float
    """Seconds on any one clock."""
    crash: bool
    """False where the cause was named (a wrong file, a failed environment): such are retried for ever, with gaps."""


def next_try(failures: Sequence[Attempt], policy: BackOff) -> float | None:
    """The time from which a new start is allowed; None if only a manual load may start again.

    `failures` ends with the one that has just happened.
    """
    now = failures[-1].at
    recent = [failure for failure in failures if now - failure.at < policy.window]
    if sum(failure.crash for failure in recent) > policy.crashes:
        return None
    return now + min(policy.longest, policy.first * 2.0 ** min(len(recent) - 1, 30))
