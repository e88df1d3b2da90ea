"""What ended sequences left behind, to be used again by those that begin alike.

A tool loop sends the same growing history again and again; with this only the new part of it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

from bainmarie_worker.engine.memory import Memory
from bainmarie_worker.engine.own_passes import CHUNK
from bainmarie_worker.engine.sequence import Adapter

_TAIL = 64
"""An entry of which no more than so many tokens would be left over is handed on, not copied."""
_CHUNK = 512


class Kind(NamedTuple):
    """Sequences of one kind may begin with what others of it have computed."""

    adapter: Adapter = None
    own: bool = False
    """They have passes of their own: then it is whole chunks that they begin with."""
    side: int = 0
    """Of how long they are, where that changes what is computed: see `Growth.side`."""

    def usable(self, tokens: int) -> int:
        """With so many of the first `tokens`, where those are common."""
        return tokens // CHUNK * CHUNK if self.own else tokens


@dataclass(eq=False)
class _Kept:
    kind: Kind
    ids: list[int]
    memory: Memory
    bytes: int
    """Of the memory when it came, which does not grow; what it shared with another may be its own since."""


Found = tuple[int, Optional[Memory]]
"""(tokens that need no computing, a memory that holds exactly those; None for zero)."""


class Prefixes:
    """Entries by use, the longest unused first; never shared between two kinds."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self._kept)

    def longest(self, kind: Kind, ids: Sequence[int]) -> int:
        """With how many of the first `ids` computed one can begin."""
        return self._best(kind, ids)[0]

    def shared(self, kind: Kind, ids: Sequence[int]) -> int:
        """How many of the first `ids` an entry of its kind has at most, whether it can be cut there or not."""
        return max((common(entry.ids, ids) for entry in self._kept if entry.kind == kind), default=0)

    def take(self, kind: Kind, ids: Sequence[int]) -> Found:
        """The longest beginning of `ids` that an entry holds or can be cut to; at least one token is left to compute.

        An entry that goes on in another way by more than a few tokens stays, and is copied.
        """
        length, place = self._best(kind, ids[:-1])
        if length == 0:
            return 0, None
        entry = self._kept.pop(place)
        if len(entry.ids) - length <= _TAIL:
            entry.memory.crop(length)
            entry.memory.mark()  # another may want to go on from here too, when it is longer
            return length, entry.memory
        self._kept.append(entry)
        return length, entry.memory.copy(length)

    def put(self, kind: Kind, ids: list[int], memory: Memory) -> None:
        """Keeps a memory that holds exactly `ids`. An entry that is only a beginning of it is dropped."""
        if not ids:
            return
        self._kept = [entry for entry in self._kept if entry.kind != kind or entry.ids != ids[: len(entry.ids)]]
        self._kept.append(_Kept(kind, ids, memory, memory.bytes))

    def drop(self, adapter: Adapter) -> None:
        """Forgets one adapter's entries."""
        self._kept = [entry for entry in self._kept if entry.kind.adapter != adapter]

    def shrink(self, most: int) -> None:
        """Drops entries, the longest unused first, until they take at most `most` bytes."""
        held = self.bytes
        while self._kept and held > most:
            held -= self._kept.pop(0).bytes

    def _best(self, kind: Kind, ids: Sequence[int]) -> tuple[int, int]:
        """(how many of the first `ids` an entry can be cut to at most, the place of the first such entry)."""
        most = best = 0
        for place, entry in enumerate(self._kept):
            if most == len(ids):
                break
            if entry.kind != kind or most >= len(entry.ids) or entry.ids[most] != ids[most]:
                continue  # it cannot have more
            length = entry.memory.nearest(kind.usable(common(entry.ids, ids)))
            if length > most:
                most, best = length, place
        return most, best


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
