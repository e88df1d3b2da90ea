"""Where the time of a run goes, iteration by iteration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of one iteration: a turn of the model and the calls it asked for."""

    iteration: int
    model_seconds: float
    tool_seconds: float
    """From the first call's start to the last one's end: calls run side by side."""
    waited_seconds: float
    """For a person's decisions."""
    overhead_seconds: float
    """All the rest: rendering, saving, policy, and the way to the worker where the worker tells its own time."""

    def to_json(self) -> dict[str, object]:
        return {name: round(value, 6) for name, value in asdict(self).items()}


class Stopwatch:
    """Sorts the time of one iteration into its parts."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._waited = 0.0
        self._tools: list[tuple[float, float]] = []
        self.model = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - began

    @contextmanager
    def tool(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._tools.append((began, time.perf_counter()))

    def last_tool_seconds(self) -> float:
        """Of the call that ended last."""
        began, ended = self._tools[-1]
        return ended - began

    def timing(self, iteration: int) -> Timing:
        """The iteration ends here."""
        tools = max(end for _, end in self._tools) - min(begin for begin, _ in self._tools) if self._tools else 0.0
        overhead = time.perf_counter() - self._began - self.model - tools - self._waited
        return Timing(iteration, self.model, tools, self._waited, max(overhead, 0.0))
