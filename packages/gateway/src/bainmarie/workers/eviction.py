"""When an idle worker has to go: a pure function over the last uses of its models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Use:
    """A model's last use in the present life of its worker."""

    at: float
    """Seconds on any one clock: when its last request ended."""
    keep_alive: float | None
    """Seconds the model wants to stay after that; None is for ever."""


def expiry(uses: Iterable[Use]) -> float:
    """When a worker without callers shall stop: when the last of its used models has waited long enough.

    Infinity where one wants to stay for ever, or where none was used yet.
    """
    times = [math.inf if use.keep_alive is None else use.at + use.keep_alive for use in uses]
    return max(times, default=math.inf)
