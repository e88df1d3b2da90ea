"""Rotary positions: how far each layer turns its queries and keys, by the model's own code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from bainmarie_worker.engine.fused.layout import require

_STEADY = ("default", "linear", "llama3", "yarn", "ntk_alpha", "proportional")
"""Rotary positions whose angles do not depend on how long a sequence is."""

_HALVES = ("gpt_oss",)
"""Families whose own code makes the angles of one half of a head, which are those of the other too."""
_COMPLEX = ("deepseek_v2",)
"""Families whose own code makes one complex number of an angle's cosine and sine."""
_WITHOUT = ("granitemoehybrid", "nemotron_h", "mamba2")
"""Families of which some turn nothing by positions."""


class Angles:
    """Cosines and sines of rotary positions, [tables, positions, rotary] in float32, made by the model's own code. Of a
    table with fewer of them than another the rest is of no meaning."""

    def __init__(self, rotaries: Sequence[Callable[..., Any]]) -> None:
        self._rotaries = rotaries
        self.positions = 0
        self.cosines = self.sines = torch.empty(0, 0, 0)

    def reach(self, positions: int) -> None:
        """Makes them for at least so many positions."""
        if positions <= self.positions:
            return
        self.positions = max(512, 1 << (positions - 1).bit_length())
        places = torch.arange(self.positions)[None]
        made = [rotary(torch.zeros(1), places) for rotary in self._rotaries]
        most = max(cosines.shape[-1] for cosines, _ in made)
        self.cosines, self.sines = (
            torch.cat([F.pad(table, (0, most - table.shape[-1])) for table in tables]).contiguous()
            for tables in zip(*made)
        )


def rotaries(body: Any, config: Any) -> tuple[list[Callable[..., Any]], list[int]]:
    """The functions that make angles, and which of them each layer uses."""
    rotary = getattr(body, "rotary_emb", getattr(body, "pos_emb", None))
    types = list(getattr(config, "layer_types", None) or [])
    require(rotary is not None or config.model_type in _WITHOUT, "positions that it is not told of")
    if rotary is None:
        return [_none], [0] * len(body.layers)
    local = getattr(body, "rotary_emb_local", None)
    for module in (rotary, local):
        told = getattr(module, "rope_type", "default")
        for kind in told.values() if isinstance(told, dict) else (told,):
            require(kind in _STEADY, f"rotary positions of the kind {kind}")
    if config.model_type in _HALVES:
        rotary = functools.partial(_doubled, rotary)
    if config.model_type in _COMPLEX:
        rotary = functools.partial(_of_complex, rotary)
    if local is not None:  # gemma3 before transformers 5
        return [rotary, local], [int(bool(layer.self_attn.is_sliding)) for layer in body.layers]
    if hasattr(rotary, "layer_types"):
        kinds = list(rotary.layer_types)
        made: list[Callable[..., Any]] = [functools.partial(rotary, layer_type=kind) for kind in kinds]
        return made, [kinds.index(kind) for kind, _ in zip(types, body.layers)]
    without = [int(not _turns(getattr(layer, "self_attn", None), config)) for layer in body.layers]
    return [rotary, functools.partial(_unturned, rotary)][: 1 + max(without)], without


def widths(made: Sequence[Callable[..., Any]]) -> list[int]:
    """How many numbers of a head each table turns."""
    return [rotary(torch.zeros(1), torch.zeros(1, 1, dtype=torch.long))[0].shape[-1] for rotary in made]


def _turns(attention: Any, config: Any) -> bool:
    """Whether a layer turns its queries and keys by their positions."""
    if config.model_type in ("exaone4", "exaone_moe"):
        return attention.sliding_window is None or bool(attention.is_sliding)
    return bool(getattr(attention, "use_rope", True))


def _unturned(rotary: Any, *asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles of layers that do not turn by positions."""
    cosines, sines = rotary(*asked)
    return torch.ones_like(cosines), torch.zeros_like(sines)


def _doubled(rotary: Callable[..., Any], *asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles of both halves of a head."""
    cosines, sines = rotary(*asked)
    return torch.cat((cosines, cosines), -1), torch.cat((sines, sines), -1)


def _of_complex(rotary: Callable[..., Any], *asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    made = rotary(*asked)
    return torch.cat((made.real, made.real), -1), torch.cat((made.imag, made.imag), -1)


def _none(_: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles of models that turn nothing by positions."""
    return torch.empty(*positions.shape, 0), torch.empty(*positions.shape, 0)


def growth(config: Any) -> tuple[int, float]:
    """The positions after which queries grow, and by how much."""
    told = config.rope_parameters
    return int(told["original_max_position_embeddings"]), float(told["llama_4_scaling_beta"])
