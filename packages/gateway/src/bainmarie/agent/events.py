"""News of a run for whoever follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RunEvent:
    """One piece of news, with JSON data.

    item: a saved item; delta: {"text"} or {"reasoning"} as it comes; approval: an `ApprovalRequest` that waits; status:
    of a model that loads; done: how the run ended, the last one.
    """

    kind: str
    data: dict[str, object]


Emit = Callable[[RunEvent], None]
