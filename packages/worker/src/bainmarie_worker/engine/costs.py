"""What passes cost, learned from the passes themselves: whether guessing tokens pays is a matter of this machine."""

from __future__ import annotations

from bainmarie_worker.engine.memory import Part

_WEIGHT = 0.1
"""Of the newest pass in the running means."""
_ROW = 0.05
"""What one more row costs beside a pass with one row, until it was measured."""


class Costs:
    """Running means of passes that generate; passes with prompts in them are of another kind."""

    def __init__(self) -> None:
        self._one: float | None = None
        self._row = _ROW

    def note(self, parts: list[Part], seconds: float) -> None:
        """One pass has taken so long."""
        if len(parts) != 1 or not parts[0].wanted:
            return
        rows = len(parts[0].tokens)
        if rows == 1:
            self._one = seconds if self._one is None else self._one + _WEIGHT * (seconds - self._one)
        elif rows == parts[0].wanted and self._one:
            row = max(0.0, seconds / self._one - 1) / (rows - 1)
            self._row += _WEIGHT * (min(row, 1.0) - self._row)

    def prices(self, running: int) -> tuple[float, float]:
        """(a token without guesses, a row that proves a guess), in passes with one row, with so many at work.

        Several sequences share what a pass costs at all; each pays its own row.
        """
        return 1 / max(running, 1) + self._row, self._row
