"""What ended sequences left behind, to be used again by those that begin alike.

A tool loop sends the same growing history again and again; with this only the new part of it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from bainmarie_worker.engine.memory import Memory
from bainmarie_worker.engine.sequence import Adapter

_TAIL = 64
"""An entry of which no more than so many tokens would be left over is handed on, not copied."""
_CHUNK = 512


@dataclass
class _Kept:
    adapter: Adapter
    ids: list[int]
    memory: Memory


Found = tuple[int, Optional[Memory]]
"""(tokens that need no computing, a memory that holds exactly those; None for zero)."""


class Prefixes:
    """Entries by use, the longest unused first. They depend on the adapter, so they are never shared between two."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    @property
    def bytes(self) -> int:
        return sum(entry.memory.bytes for entry in self._kept)

    def longest(self, adapter: Adapter, ids: Sequence[int]) -> int:
        """How many of the first `ids` the best entry has."""
        return max((common(entry.ids, ids) for entry in self._kept if entry.adapter == adapter), default=0)

    def take(self, adapter: Adapter, ids: Sequence[int]) -> Found:
        """The longest beginning of `ids` that an entry holds or can be cut to; at least one token is left to compute.

        An entry that goes on in another way by more than a few tokens stays, and is copied.
        """
        most = len(ids) - 1
        ranked = [(min(common(entry.ids, ids), most), entry) for entry in self._kept if entry.adapter == adapter]
        for length, entry in sorted(ranked, key=lambda pair: -pair[0]):
            if length == 0:
                break
            if len(entry.ids) - length <= _TAIL:
                if length == entry.memory.length or entry.memory.crop(length):
                    self._kept.remove(entry)
                    return length, entry.memory
                continue
            memory = entry.memory.copy(length)
            if memory is not None:
                self._kept.remove(entry)
                self._kept.append(entry)
                return length, memory
        return 0, None

    def put(self, adapter: Adapter, ids: list[int], memory: Memory) -> None:
        """Keeps a memory that holds exactly `ids`. An entry that is only a beginning of it is dropped."""
        if not ids:
            return
        self._kept = [
            entry
            for entry in self._kept
            if entry.adapter != adapter or len(entry.ids) > len(ids) or common(entry.ids, ids) < len(entry.ids)
        ]
        self._kept.append(_Kept(adapter, ids, memory))

    def drop(self, adapter: Adapter) -> None:
        """Forgets one adapter's entries."""
        self._kept = [entry for entry in self._kept if entry.adapter != adapter]

    def shrink(self, most: int) -> None:
        """Drops entries, the longest unused first, until they take at most `most` bytes."""
        while self._kept and self.bytes > most:
            self._kept.pop(0)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    end = min(len(left), len(right))
    start = 0
    while start < end:
        stop = min(start + _CHUNK, end)
        if list(left[start:stop]) != list(right[start:stop]):
            return next(place for place in range(start, stop) if left[place] != right[place])
        start = stop
    return end
