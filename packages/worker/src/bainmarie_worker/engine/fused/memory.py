"""Keys and values of one sequence in one piece, so that compiled code needs one address of them; and beside them what
recurrent layers remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bainmarie_worker.engine.keys_values import KeysValues, capacity_for
from bainmarie_worker.engine.marks import Marks


@dataclass(frozen=True)
class Kept:
    """What a layer keeps of each token: `size` numbers of a key and `value_size` of a value of so many heads, behind
    `place` numbers of other layers.

    Layers that look at the same keys and values have the same place.
    """

    place: int
    heads: int
    size: int
    value_size: int

    @property
    def end(self) -> int:
        return self.place + self.heads * (self.size + self.value_size)


class OneBlock(KeysValues):
    """A `KeysValues` whose layers are views of `block`: of each layer keys [key heads, capacity, size], and values."""

    def __init__(self, layers: Sequence[Kept], dtype: torch.dtype) -> None:
        super().__init__()
        self.block = torch.empty(0, dtype=dtype)
        self.state = torch.empty(0)
        """What recurrent layers remember, of models that have any."""
        self.traces = torch.empty(0, 0)
        """[tokens, numbers] what they took in of the last tokens, which the state does not know yet."""
        self._kept = layers

    @property
    def bytes(self) -> int:
        return self.block.nbytes + self.state.nbytes

    @property
    def capacity(self) -> int:
        return self._capacity

    def reserve(self, tokens: int) -> None:
        if tokens <= self._capacity:
            return
        self._hold(capacity_for(tokens, self._capacity), self, self.length)

    def copy(self, length: int) -> OneBlock:
        twin = OneBlock(self._kept, self.block.dtype)
        self._give(twin, length)
        return twin

    def _give(self, twin: OneBlock, length: int) -> None:
        """The first `length` tokens, to one that is new."""
        twin._hold(capacity_for(length + 1, 0), self, length)
        twin.length = length

    def _hold(self, capacity: int, old: OneBlock, length: int) -> None:
        """A block of that capacity with the first `length` tokens of the old one."""
        block = self.block.new_empty(capacity * max((layer.end for layer in self._kept), default=0))
        for layer in dict.fromkeys(self._kept) if length else ():
            for new, known in zip(_of(layer, block, capacity), _of(layer, old.block, old.capacity)):
                new[:, :length] = known[:, :length]
        self.block, self._capacity = block, capacity
        self._layers = [_of(layer, block, capacity) for layer in self._kept]


def _of(layer: Kept, block: torch.Tensor, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = (layer.size, layer.value_size)
    parts = block[layer.place * capacity : layer.end * capacity].split(
        [layer.heads * capacity * size for size in sizes]
    )
    keys, values = (part.view(layer.heads, capacity, size) for part, size in zip(parts, sizes))
    return keys, values


@dataclass(frozen=True)
class _Remembered:
    """What recurrent layers remember of a sequence: a state, and what they took in of the tokens behind it."""

    state: torch.Tensor
    traces: torch.Tensor

    @property
    def bytes(self) -> int:
        return self.state.nbytes + self.traces.untyped_storage().nbytes()

    def until(self, traces: int) -> _Remembered:
        """With the first so many traces."""
        return _Remembered(self.state, self.traces[:traces])


class BlockAndState(OneBlock):
    """With a state, which is that after all tokens but those that have left traces: it can be led back to fewer of them
    only where it was marked. Nobody changes traces, so they are shared with copies and marks."""

    def __init__(self, layers: Sequence[Kept], dtype: torch.dtype, state: torch.Tensor) -> None:
        """`state` is that before the first token, and becomes this memory's own."""
        super().__init__(layers, dtype)
        self.state = state
        self._marks: Marks[_Remembered] = Marks()

    @property
    def bytes(self) -> int:
        return self.block.nbytes + sum(one.bytes for one in (self._now, *self._marks.states))

    def nearest(self, length: int) -> int:
        return min(length, self.length) if length >= self._settled else self._marks.nearest(length)

    def crop(self, length: int) -> None:
        before = self._at(length)
        self.state = before.state if length >= self._settled else before.state.clone()
        self.traces = before.traces
        self._marks = self._marks.until(length)
        super().crop(length)

    def copy(self, length: int) -> BlockAndState:
        before = self._at(length)
        twin = BlockAndState(self._kept, self.block.dtype, before.state.clone())
        twin.traces, twin._marks = before.traces, self._marks.until(length)
        self._give(twin, length)
        return twin

    def mark(self) -> None:
        self._marks.keep(self.length, _Remembered(self.state.clone(), self.traces))

    @property
    def _now(self) -> _Remembered:
        return _Remembered(self.state, self.traces)

    @property
    def _settled(self) -> int:
        """Tokens that the state knows."""
        return self.length - len(self.traces)

    def _at(self, length: int) -> _Remembered:
        settled = self._settled
        return self._now.until(length - settled) if length >= settled else self._marks.at(length)
