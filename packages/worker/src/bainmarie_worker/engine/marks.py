"""States of one sequence at some of its lengths, for memories that can be cut nowhere else.

A recurrent state cannot be taken back by a token. What was saved of it is what others can begin with.
"""

from __future__ import annotations

from typing import Generic, TypeVar

State = TypeVar("State")
_MOST = 6
"""Marks of one sequence: a state may be as large as the keys and values of a thousand tokens."""


class Marks(Generic[State]):
    """States by length. They are shared with copies, and nobody changes them."""

    def __init__(self, states: dict[int, State] | None = None) -> None:
        self._states = states or {}

    @property
    def states(self) -> list[State]:
        return list(self._states.values())

    def keep(self, length: int, state: State) -> None:
        """Where there are too many, the one goes that is missed least: its neighbour before it is the nearest. `length`
        is no smaller than any before."""
        self._states[length] = state
        if len(self._states) > _MOST:
            lengths = sorted(self._states)
            gaps = {place: place - before for before, place in zip([0, *lengths], lengths[:-1])}
            del self._states[min(gaps, key=lambda place: gaps[place])]

    def nearest(self, length: int) -> int:
        """The largest marked length that is not larger; 0 for none."""
        return max((place for place in self._states if place <= length), default=0)

    def at(self, length: int) -> State:
        """That of a marked length."""
        return self._states[length]

    def until(self, length: int) -> Marks[State]:
        """Those of no larger length."""
        return Marks({place: state for place, state in self._states.items() if place <= length})
