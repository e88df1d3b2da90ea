"""The keys and values of one sequence, all layers: what attention needs of the tokens that are computed."""

from __future__ import annotations

import torch

_STEP = 64
"""Capacity is a multiple of this many tokens."""


class KeysValues:
    """Token i of the sequence stands at place i of every layer, so that any number of tokens can be cut off the end.

    Implements `Memory`. Sliding windows keep all their tokens too: the window is a matter of attention.
    """

    def __init__(self) -> None:
        self.length = 0
        """Tokens that are computed. What stands behind them is of no meaning and will be overwritten."""
        self._layers: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        self._capacity = 0

    @property
    def bytes(self) -> int:
        return sum(k.nbytes + v.nbytes for layer in self._layers if layer is not None for k, v in [layer])

    @property
    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """Keys and values [heads, capacity, size]; None for a layer that has kept nothing."""
        return self._layers

    def reserve(self, tokens: int) -> None:
        """Makes room for `tokens` in all. Growing copies what there is."""
        if tokens <= self._capacity:
            return
        self._capacity = capacity_for(tokens, self._capacity)
        for place, layer in enumerate(self._layers):
            if layer is not None:
                self._layers[place] = (self._grown(layer[0]), self._grown(layer[1]))

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Puts new keys and values [heads, tokens, size] behind the computed ones; `length` is the caller's to move."""
        while len(self._layers) <= layer:
            self._layers.append(None)
        end = self.length + keys.shape[1]
        self.reserve(end)
        held = self._layers[layer]
        if held is None:
            held = self._layers[layer] = (self._made(keys), self._made(values))
        held[0][:, self.length : end] = keys
        held[1][:, self.length : end] = values

    def read(self, layer: int, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [heads, end - start, size] of one layer's keys and values."""
        held = self._layers[layer]
        assert held is not None
        return held[0][:, start:end], held[1][:, start:end]

    def crop(self, length: int) -> bool:
        """Keeps the first `length` tokens. Always possible."""
        self.length = length
        return True

    def copy(self, length: int) -> KeysValues | None:
        """The first `length` tokens, apart from this one."""
        twin = KeysValues()
        twin._capacity = capacity_for(length + 1, 0)
        twin.length = length
        for layer in self._layers:
            if layer is None:
                twin._layers.append(None)
                continue
            made = (twin._made(layer[0]), twin._made(layer[1]))
            for new, old in zip(made, layer):
                new[:, :length] = old[:, :length]
            twin._layers.append(made)
        return twin

    def _made(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty(like.shape[0], self._capacity, like.shape[2])

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        new = self._made(old)
        new[:, : self.length] = old[:, : self.length]
        return new


def capacity_for(tokens: int, before: int) -> int:
    """Room for so many tokens, and for half more than there was before."""
    return -(-max(tokens, before * 3 // 2) // _STEP) * _STEP
