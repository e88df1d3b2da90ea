"""Layers of the gated delta rule as delta.h sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bainmarie_worker.engine.fused.layout import Recurrence, epsilon, require

_STEP = 32
"""Sizes are multiples of it, as in structure.py."""


def recurrence(delta: Any, place: int, address: Callable[[torch.Tensor], int]) -> Recurrence:
    """`place` is where its part of a sequence's state begins. Unknown where its own code computes something else."""
    activations = {delta.activation, getattr(delta.norm, "activation", "silu")}
    require(activations == {"silu"}, "recurrent layers with another activation than silu")
    channels, one, taps = delta.conv1d.weight.shape
    sizes = (delta.head_k_dim, delta.head_v_dim)
    require(delta.num_v_heads % delta.num_k_heads == 0, "recurrent layers whose heads share no keys")
    require(not any(size % _STEP for size in sizes), f"sizes {sizes} that are no multiples of {_STEP}")
    require(one == 1 and delta.conv1d.bias is None, "recurrent layers that mix their inputs otherwise")
    require(channels == 2 * delta.key_dim + delta.value_dim, "recurrent layers that mix their inputs otherwise")
    return Recurrence(
        filter=address(delta.conv1d.weight.detach()[:, 0].t().float().contiguous()),
        rate=address(delta.A_log.detach().float().exp()),
        time_bias=address(delta.dt_bias.detach().float()),
        norm=address(delta.norm.weight.detach().float()),
        channels=channels,
        taps=taps,
        key_heads=delta.num_k_heads,
        value_heads=delta.num_v_heads,
        key_size=delta.head_k_dim,
        value_size=delta.head_v_dim,
        place=place,
        epsilon=epsilon(delta.norm),
    )


def floats_of(told: Recurrence) -> int:
    """What such a layer remembers of a sequence."""
    return (told.taps - 1) * told.channels + told.value_heads * told.key_size * told.value_size
