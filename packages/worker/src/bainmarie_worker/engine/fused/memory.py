"""Keys and values of one sequence in one piece, so that compiled code needs one address of them."""

from __future__ import annotations

import torch

from bainmarie_worker.engine.keys_values import KeysValues, capacity_for


class OneBlock(KeysValues):
    """A `KeysValues` whose layers are views of `block` [layers, 2, key heads, capacity, size]."""

    def __init__(self, like: torch.Tensor) -> None:
        """`like` is an empty block: its shape with no capacity, and its dtype."""
        super().__init__()
        self.block = like

    @property
    def bytes(self) -> int:
        return self.block.nbytes

    def reserve(self, tokens: int) -> None:
        if tokens <= self._capacity:
            return
        self._hold(capacity_for(tokens, self._capacity), self.block, self.length)

    def copy(self, length: int) -> OneBlock:
        twin = OneBlock(self.block)
        twin._hold(capacity_for(length + 1, 0), self.block, length)
        twin.length = length
        return twin

    def _hold(self, capacity: int, old: torch.Tensor, length: int) -> None:
        """A block of that capacity with the first `length` tokens of the old one."""
        layers, two, heads, _, size = old.shape
        self.block = old.new_empty(layers, two, heads, capacity, size)
        self.block[:, :, :, :length] = old[:, :, :, :length]
        self._capacity = capacity
        self._layers = [(layer[0], layer[1]) for layer in self.block]
