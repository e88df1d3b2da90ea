"""What the engine asks of a model: memories of sequences, and forward passes over parts of them. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Union, runtime_checkable

from bainmarie_worker.engine.sequence import Adapter


class NoRoom(MemoryError):
    """A memory cannot grow as long as the others are as large as they are. Nothing has moved on."""


class Memory(Protocol):
    """What a model remembers of the tokens of one sequence that are computed."""

    @property
    def length(self) -> int:
        """Tokens computed."""

    @property
    def bytes(self) -> int: ...

    def nearest(self, length: int) -> int:
        """How many of the first `length` tokens it can be cut to, at most; 0 where that is nothing."""

    def crop(self, length: int) -> None:
        """Forgets all but the first `length` tokens, a number that `nearest` gives."""

    def copy(self, length: int) -> Memory:
        """The first `length` tokens, a number that `nearest` gives, in a memory of their own."""

    def mark(self) -> None:
        """From now on it can be cut to as many tokens as it has now."""


@dataclass(frozen=True)
class Part:
    """One sequence's share of a pass."""

    memory: Any
    """Made by the same `Forward`. On return of the pass it holds `tokens` too."""
    tokens: list[int]
    """They follow the memory's tokens; at least one."""
    wanted: int
    """Logits are wanted after so many of the last tokens; 0 for none."""
    adapter: Adapter = None
    guessed: int = 0
    """So many of the last tokens are guesses: until its next pass the memory can be cut before each of them."""
    reach: int = 0
    """Where rotary positions depend on how long a sequence is: its tokens are those of at least so long a one."""


Logits = Any
"""A tensor [wanted, vocabulary]."""
Computed = Union[Logits, Exception]


class Forward(Protocol):
    """Forward passes of one model. Used on the engine's thread only."""

    path: str
    """Its name, as `engine_path` tells it."""
    packs: bool
    """Whether one pass reads the weights once for all its parts, so that more parts cost little."""
    crops: bool
    """Whether memories can be cut at any place, not only where they were marked."""
    guesses: bool
    """Whether they can be cut before guessed tokens."""
    why: str
    """Why it is not the fastest way; empty for the fastest."""

    def memory(self) -> Memory: ...

    def run(self, parts: list[Part]) -> list[Computed]:
        """For each part its logits, or why it failed.

        Where `packs`, one failure may fail them all; no memory has moved on then, and they can be run again one by one.
        """

    def free(self) -> None:
        """Gives back what is kept between passes, when memory is short."""


@runtime_checkable
class Independent(Protocol):
    """A `Forward` that computes rows the same to the bit, whatever else is in their pass and however their sequence is
    divided into passes. One that does not say so does not."""

    def independent(self, adapter: Adapter) -> bool:
        """Whether it does so for sequences with this adapter."""


def independent(forward: Forward, adapter: Adapter) -> bool:
    """Whether what this way computes of a sequence depends on nothing but the sequence."""
    return isinstance(forward, Independent) and forward.independent(adapter)
