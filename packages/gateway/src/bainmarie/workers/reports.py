"""Those who hear of a load's progress while they wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bainmarie.progress import Progress, Report


class Reports:
    """Of one worker."""

    def __init__(self) -> None:
        self.latest: Progress | None = None
        """None while there is no load."""
        self._all: list[Report] = []

    def tell(self, progress: Progress) -> None:
        self.latest = progress
        for report in self._all:
            report(progress)

    @contextmanager
    def hears(self, report: Report | None) -> Iterator[None]:
        """It hears all from now on, and what was the latest."""
        if report is None:
            yield
            return
        self._all.append(report)
        try:
            if self.latest is not None:
                report(self.latest)
            yield
        finally:
            self._all.remove(report)
