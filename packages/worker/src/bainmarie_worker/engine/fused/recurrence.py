"""Layers that remember by a state of one size, as delta.h, convolution.h and scan.h see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bainmarie_worker.engine.fused.layout import Recurrence, epsilon, require

_STEP = 32
"""Sizes are multiples of it, as in structure.py."""
_DELTA, _CONVOLUTION, _SCAN = range(3)
"""As in model.h."""
_OUTPUTS = 4
"""Of a block, as in vectors.h."""
_SHORTEST = 0.001
"""The lowest bound of a token's time that is known: its own code keeps to it in passes of several tokens alone."""
_OTHERWISE = "recurrent layers that mix their inputs otherwise"

Address = Callable[[torch.Tensor], int]


def recurrent_of(layer: Any) -> Any:
    """What a layer has in the place of attention; None where that is attention."""
    found = (getattr(layer, name, None) for name in ("linear_attn", "conv", "mamba"))
    return next((one for one in found if one is not None), None)


def recurrence(module: Any, place: int, trace: int, address: Address) -> tuple[Recurrence, list[Any]]:
    """And the parameters that it is made of. `place` is where its part of a sequence's state begins, `trace` that of a
    row's trace. Unknown where its own code computes something else."""
    known = {"in_proj_qkv": _delta, "in_proj_qkvz": _delta, "ssm_state_size": _scan}
    read = next((read for name, read in known.items() if hasattr(module, name)), _convolution)
    told, parameters = read(module, place, address)
    told.trace = trace
    return told, parameters


def _delta(delta: Any, place: int, address: Address) -> tuple[Recurrence, list[Any]]:
    activations = {delta.activation, getattr(delta.norm, "activation", "silu")}
    require(activations == {"silu"}, "recurrent layers with another activation than silu")
    sizes = (delta.head_k_dim, delta.head_v_dim)
    require(delta.num_v_heads % delta.num_k_heads == 0, "recurrent layers whose heads share no keys")
    require(not any(size % _STEP for size in sizes), f"sizes {sizes} that are no multiples of {_STEP}")
    told = Recurrence(
        kind=_DELTA,
        rate=address(delta.A_log.detach().float().exp()),
        time_bias=address(delta.dt_bias.detach().float()),
        norm=address(delta.norm.weight.detach().float()),
        key_heads=delta.num_k_heads,
        value_heads=delta.num_v_heads,
        key_size=delta.head_k_dim,
        value_size=delta.head_v_dim,
        place=place,
        epsilon=epsilon(delta.norm),
    )
    mixing = _filter(told, delta.conv1d, 2 * delta.key_dim + delta.value_dim, address)
    return told, [*mixing, delta.A_log, delta.dt_bias, delta.norm.weight]


def _convolution(short: Any, place: int, address: Address) -> tuple[Recurrence, list[Any]]:
    told = Recurrence(kind=_CONVOLUTION, place=place)
    return told, _filter(told, short.conv, short.out_proj.in_features, address)


def _scan(mamba: Any, place: int, address: Address) -> tuple[Recurrence, list[Any]]:
    heads, size, groups = mamba.num_heads, mamba.head_dim, mamba.n_groups
    inner = heads * size
    norm = None if isinstance(mamba.norm, torch.nn.Identity) else mamba.norm
    norms = _norms(norm, inner)
    require(mamba.activation == "silu", "recurrent layers with another activation than silu")
    least, most = mamba.time_step_limit
    require(0 <= least <= _SHORTEST and most == float("inf"), f"times within the bounds {least} and {most}")
    require(heads % groups == 0 and mamba.intermediate_size == inner, "recurrent layers whose heads share no keys")
    require(inner % norms == 0, "recurrent layers with other norms")
    sizes = (mamba.ssm_state_size, inner, inner // norms)
    require(not any(one % _STEP for one in sizes), f"sizes {sizes} that are no multiples of {_STEP}")
    require(size % _OUTPUTS == 0, f"heads of the size {size}, which is no multiple of {_OUTPUTS}")
    told = Recurrence(
        kind=_SCAN,
        rate=address(mamba.A_log.detach().float().exp()),
        time_bias=address(mamba.dt_bias.detach().float()),
        skip=address(mamba.D.detach().float()),
        norm=address(norm.weight.detach().float()) if norm else None,
        norms=norms,
        normed_first=getattr(norm, "norm_before_gate", False),
        key_heads=groups,
        value_heads=heads,
        key_size=mamba.ssm_state_size,
        value_size=size,
        place=place,
        epsilon=epsilon(norm) if norm else 0.0,
        least_time=least,
    )
    channels = inner + 2 * groups * mamba.ssm_state_size
    mixing = _filter(told, mamba.conv1d, channels, address, _channel_factors(mamba))
    return told, [*mixing, mamba.A_log, mamba.dt_bias, mamba.D, *(norm.parameters() if norm else ())]


def _norms(norm: Any, inner: int) -> int:
    """Into how many norms what is seen is divided."""
    if norm is None:
        return 1
    require(norm.weight.shape == (inner,), "recurrent layers with other norms")
    return inner // norm.group_size if hasattr(norm, "group_size") else getattr(norm, "n_groups", 1)


def _channel_factors(mamba: Any) -> torch.Tensor | None:
    """Of what is mixed with its last inputs, where its own code scales that before."""
    factors = getattr(mamba, "mup_vector", None)
    if factors is None:
        return None
    first = mamba.intermediate_size
    return factors.flatten()[first : first + mamba.conv_dim].float() * mamba.ssm_in_multiplier


def _filter(
    told: Recurrence, convolution: Any, channels: int, address: Address, scaled: torch.Tensor | None = None
) -> list[Any]:
    """Of each channel its last inputs' factors; gives the parameters. `scaled` are factors of the channels."""
    weight, bias = convolution.weight, convolution.bias
    require(weight.shape[:2] == (channels, 1), _OTHERWISE)
    factors = weight.detach()[:, 0].t().float()
    told.filter = address((factors if scaled is None else factors * scaled).contiguous())
    told.channels, told.taps = channels, weight.shape[2]
    if bias is None:
        return [weight]
    told.filter_bias = address(bias.detach().float())
    return [weight, bias]


def floats_of(told: Recurrence) -> int:
    """What such a layer remembers of a sequence."""
    return (told.taps - 1) * told.channels + told.value_heads * told.key_size * told.value_size


def trace_of(told: Recurrence) -> int:
    """Numbers that it takes in of a row: what it mixes, and of each head what is chosen by the token."""
    return told.channels + {_DELTA: 2, _CONVOLUTION: 0, _SCAN: 1}[told.kind] * told.value_heads
