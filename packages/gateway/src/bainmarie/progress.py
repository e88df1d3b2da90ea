"""One truthful progress stream, from environment build to first token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A step on the way to a ready model.

    Stages in order: resolve, download, install, preflight (environment); process; imports, config, weights, adapter,
    warmup (worker).
    """

    stage: str
    fraction: float | None = None
    """0 to 1 within the stage; None where the end is unknown."""
    detail: str = ""
    current: int = 0
    total: int = 0
    unit: str = ""


Report = Callable[[Progress], None]
