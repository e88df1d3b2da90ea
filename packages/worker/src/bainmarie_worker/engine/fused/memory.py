"""Keys and values of one sequence in one piece, so that compiled code needs one address of them; and beside them what
recurrent layers remember."""

from __future__ import annotations

import torch

from bainmarie_worker.engine.keys_values import KeysValues, capacity_for


class OneBlock(KeysValues):
    """A `KeysValues` whose layers are views of `block` [layers, 2, key heads, capacity, size]."""

    def __init__(self, like: torch.Tensor) -> None:
        """`like` is an empty block: its shape with no capacity, and its dtype."""
        super().__init__()
        self.block = like
        self.state = torch.empty(0)
        """What recurrent layers remember, of models that have any."""

    @property
    def bytes(self) -> int:
        return self.block.nbytes + self.state.nbytes

    def reserve(self, tokens: int) -> None:
        if tokens <= self._capacity:
            return
        self._hold(capacity_for(tokens, self._capacity), self.block, self.length)

    def copy(self, length: int) -> OneBlock | None:
        twin = OneBlock(self.block)
        self._give(twin, length)
        return twin

    def _give(self, twin: OneBlock, length: int) -> None:
        """The first `length` tokens, to one that is new."""
        twin._hold(capacity_for(length + 1, 0), self.block, length)
        twin.length = length

    def _hold(self, capacity: int, old: torch.Tensor, length: int) -> None:
        """A block of that capacity with the first `length` tokens of the old one."""
        layers, two, heads, _, size = old.shape
        self.block = old.new_empty(layers, two, heads, capacity, size)
        self.block[:, :, :, :length] = old[:, :, :, :length]
        self._capacity = capacity
        self._layers = [(layer[0], layer[1]) for layer in self.block]


class BlockAndState(OneBlock):
    """With a state, which is that after all tokens: it can be copied, and not be led back to fewer of them."""

    def __init__(self, like: torch.Tensor, state: torch.Tensor) -> None:
        """`state` is that before the first token, and becomes this memory's own."""
        super().__init__(like)
        self.state = state

    def crop(self, length: int) -> bool:
        return length == self.length

    def copy(self, length: int) -> BlockAndState | None:
        if length != self.length:
            return None
        twin = BlockAndState(self.block, self.state.clone())
        self._give(twin, length)
        return twin
