"""Speculation from the prompt: what followed the last tokens the last time they occurred is guessed to follow again.

Answers copy from their prompt (file names, numbers, whole calls), and the pass that proves a guess costs little more
than one that computes a single token. A guess never changes an answer: every token is drawn from the model's own
logits, and a guess that the draw does not repeat is dropped with all that came after it.
"""

from __future__ import annotations

from collections.abc import Iterable

_WIDTHS = (4, 3, 2)
"""Lengths of the ends that are looked up, the most telling first."""
_LONGEST = 16
_FIRST = 4
"""Tokens guessed at most, and at first."""
_TRIES = 4
"""Guesses after which it is judged whether they pay."""
_PAUSE, _LONGEST_PAUSE = 16, 512
"""Tokens generated without guessing after guesses that did not pay; twice as many each time."""


class Lookup:
    """Guesses for one sequence; learns from each whether and how far to guess the next time."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._limit = _FIRST
        self._tries = 0
        self._balance = 0.0
        self._pause = _PAUSE
        self._resting = 0
        self.extend(ids)

    def extend(self, tokens: Iterable[int]) -> None:
        """More tokens of the sequence are known."""
        ids, after = self._ids, self._after
        for token in tokens:
            end = len(ids)
            for width in _WIDTHS:
                if end >= width:
                    after[tuple(ids[end - width : end])] = end
            ids.append(token)
            self._resting -= 1

    def guess(self, most: int) -> list[int]:
        """What may come next, at most `most` tokens; empty without a precedent, or while guessing does not pay."""
        limit = min(self._limit, most)
        if limit < 1 or self._resting > 0:
            return []
        ids = self._ids
        for width in _WIDTHS:
            start = self._after.get(tuple(ids[-width:]))
            if start is not None:
                guess: list[int] = []
                while len(guess) < limit:  # the precedent may run into the present: then the guess repeats itself
                    place = start + len(guess)
                    guess.append(ids[place] if place < len(ids) else guess[place - len(ids)])
                return guess
        return []

    def learn(self, guessed: int, right: int, token_cost: float, row_cost: float) -> None:
        """`right` of `guessed` tokens were drawn. One token without guesses costs `token_cost`, proving one `row_cost`.

        Both in any one unit. Right guesses double the next one's length; several that cost more than they saved end
        the guessing for a while.
        """
        self._limit = min(2 * self._limit, _LONGEST) if right == guessed else max(1, right + 1)
        self._tries += 1
        self._balance += right * token_cost - guessed * row_cost
        if self._tries < _TRIES:
            return
        if self._balance < 0:
            self._resting, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = _PAUSE
        self._tries, self._balance = 0, 0.0
