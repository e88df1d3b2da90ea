"""Mixtures of experts as experts.h sees them: how a router chooses, and where the experts' matrices lie."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from bainmarie_worker.engine.fused.layout import Matrix, Mixture, either, epsilon, require

_MOST_GROUPS = 64
"""As in experts.h."""


def mixture(
    block: Any, dtype: torch.dtype, weights: Callable[[torch.Tensor], Matrix], address: Callable[[torch.Tensor], int]
) -> tuple[Mixture, list[Any]]:
    """A block's routed experts, and the parameters of which they are made; their matrices are three-dimensional:
    [experts, 2 * inner, hidden], or without gates [experts, inner, hidden], and [experts, hidden, inner]. Unknown where
    they are not."""
    router, experts = either(block, "gate", "router"), block.experts
    told = _told(experts, router.weight, router.top_k, dtype, weights)
    told.router = weights(router.weight)
    told.whole, told.factor = getattr(router, "norm_topk_prob", True), 1.0
    if hasattr(router, "e_score_correction_bias"):
        _correct(told, router, router.e_score_correction_bias, address)
    if hasattr(router, "use_expert_bias"):
        none = torch.zeros(told.count)
        _correct(told, router, block.expert_bias if router.use_expert_bias else none, address)
        told.rest = 1e-6
    return told, [router.weight, _merged(experts), experts.down_proj]


def apart(
    layer: Any,
    scored: Matrix,
    dtype: torch.dtype,
    weights: Callable[[torch.Tensor], Matrix],
    norm: Callable[[Any], int],
    address: Callable[[torch.Tensor], int],
) -> tuple[Mixture, list[Any]]:
    """As `mixture`, of a layer whose experts stand beside its perceptron, with norms of their own. `scored` is the
    matrix of its router."""
    router, experts = layer.router, layer.experts
    norms = {
        "before": layer.pre_feedforward_layernorm_2,
        "after": layer.post_feedforward_layernorm_2,
        "beside": layer.post_feedforward_layernorm_1,
    }
    same = {epsilon(one) for one in (router.norm, layer.input_layernorm, *norms.values())}
    require(len(same) == 1 and not list(router.norm.parameters()), "a router with another norm")
    told = _told(experts, router.proj.weight, router.config.top_k_experts, dtype, weights)
    told.router, told.whole = scored, True
    require(not told.router.bias, "a router with a bias")
    told.routed = address(router.scale.float() * router.scalar_root_size)
    told.scales = address(router.per_expert_scale.float())
    for name, module in norms.items():
        setattr(told, name, norm(module))
    return told, [value for module in (router, experts, *norms.values()) for value in module.parameters()]


def _told(
    experts: Any, router: torch.Tensor, chosen: int, dtype: torch.dtype, weights: Callable[[torch.Tensor], Matrix]
) -> Mixture:
    """What is told of experts, of which a router chooses some."""
    merged = _merged(experts)
    require(torch.is_tensor(merged), "experts in the form of older releases")
    turned = getattr(experts, "is_transposed", False) or not getattr(experts, "is_concatenated", True)
    require(not turned, "experts whose matrices lie otherwise")
    count, hidden, inner = experts.down_proj.shape
    gates = int(hasattr(experts, "gate_up_proj"))
    require(merged.shape == (count, (1 + gates) * inner, hidden), "experts whose matrices lie otherwise")
    require(router.shape == (count, hidden) and chosen <= count, "a router of other experts")
    kinds = {weight.dtype for weight in (merged, experts.down_proj)}
    require(kinds <= {dtype}, f"experts in {' and '.join(map(str, kinds))}")
    matrices = []
    for ups, down in zip(merged, experts.down_proj):
        gate = weights(ups[:inner]) if gates else Matrix()
        matrices += [gate, weights(ups[gates * inner :]), weights(down)]
    made = (Matrix * len(matrices))(*matrices)
    told = Mixture(matrices=ctypes.addressof(made), count=count, chosen=chosen, inner=inner)
    told.held = made
    return told


def _merged(experts: Any) -> Any:
    """Their gates and what is gated; without gates, what is activated."""
    return getattr(experts, "gate_up_proj", getattr(experts, "up_proj", None))


def _correct(told: Mixture, router: Any, correction: torch.Tensor, address: Callable[[torch.Tensor], int]) -> None:
    """Of a router that gives each expert a score of its own, and adds something to it for the choice."""
    correction = correction.float()
    told.correction, told.factor, told.rest = address(correction), router.routed_scaling_factor, 1e-20
    told.groups, told.best_groups = getattr(router, "num_group", 1), getattr(router, "topk_group", 1)
    size, rest = divmod(told.count, told.groups)
    fits = rest == 0 and (size > 1 or told.groups == 1) and told.groups <= _MOST_GROUPS
    require(fits and told.chosen <= told.best_groups * size, f"{told.groups} groups of {told.count} experts")
    require(correction.shape == (told.count,) and bool(correction.isfinite().all()), "a correction of other scores")
