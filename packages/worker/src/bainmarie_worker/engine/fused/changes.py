"""What an adapter does to a model, as decoder.c sees it."""

from __future__ import annotations

import ctypes

import torch
from torch.nn import functional as F

from bainmarie_worker.engine.fused.layout import Change, require
from bainmarie_worker.engine.fused.parts import Rows
from bainmarie_worker.engine.fused.structure import Structure
from bainmarie_worker.engine.lora import Weights

_RANKS = 16
"""Ranks of adapters are made multiples of it: one such vector of float32 numbers."""
_GROUP = 16
"""Outputs of an adapter that lie side by side, those of one rank after those of another."""


class Changes:
    """What one adapter does to a structure's matrices. `address` is where decoder.c finds it."""

    def __init__(self, structure: Structure, weights: Weights) -> None:
        """Unknown where one of the changed layers is none of the structure's."""
        self._held: list[torch.Tensor] = []
        self.rank = 0
        rows = [one for layer in structure.rows for one in layer]
        require(not set(weights) - {one.linear for one in rows if one}, "an adapter of other layers")
        changes = (self._change(one, weights.get(one.linear)) if one else Change() for one in rows)
        self._made = (Change * len(rows))(*changes)
        self.address = ctypes.addressof(self._made)

    def _change(self, rows: Rows, pair: tuple[torch.Tensor, torch.Tensor] | None) -> Change:
        if pair is None:
            return Change()
        down, up = pair[0], pair[1][rows.part]
        more = -len(down) % _RANKS
        down = F.pad(down.float(), (0, 0, 0, more)).contiguous()
        up = F.pad(up.float(), (0, more, 0, -len(up) % _GROUP))
        up = up.unflatten(0, (-1, _GROUP)).transpose(1, 2).contiguous()
        self._held += down, up
        self.rank = max(self.rank, len(down))
        return Change(down.data_ptr(), up.data_ptr(), len(down))
