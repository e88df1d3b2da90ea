"""Mixtures of experts as experts.h sees them: how a router chooses, and where the experts' matrices lie."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from bainmarie_worker.engine.fused.layout import Matrix, Mixture, either, require

_MOST_GROUPS = 64
"""As in experts.h."""


def shared(layer: Any, block: Any) -> tuple[Any, Any]:
    """The perceptron beside a block's experts, and what tells how much of it is added, by a logistic function. None for
    each that is missing."""
    places = (block, "shared_expert"), (block, "shared_experts"), (layer, "shared_mlp")
    found = (getattr(of, name, None) for of, name in places)
    return next((one for one in found if one is not None), None), getattr(block, "shared_expert_gate", None)


def mixture(
    block: Any, dtype: torch.dtype, weights: Callable[[torch.Tensor], Matrix], address: Callable[[torch.Tensor], int]
) -> tuple[Mixture, list[Any]]:
    """A block's routed experts, and the parameters of which they are made; their matrices are three-dimensional:
    [experts, 2 * inner, hidden], or without gates [experts, inner, hidden], and [experts, hidden, inner]. Unknown where
    they are not."""
    router, experts = either(block, "gate", "router"), block.experts
    merged: Any = getattr(experts, "gate_up_proj", getattr(experts, "up_proj", None))
    require(torch.is_tensor(merged), "experts in the form of older releases")
    turned = getattr(experts, "is_transposed", False) or not getattr(experts, "is_concatenated", True)
    require(not turned, "experts whose matrices lie otherwise")
    count, hidden, inner = experts.down_proj.shape
    gates = int(hasattr(experts, "gate_up_proj"))
    require(merged.shape == (count, (1 + gates) * inner, hidden), "experts whose matrices lie otherwise")
    require(router.weight.shape == (count, hidden) and router.top_k <= count, "a router of other experts")
    used = [router.weight, merged, experts.down_proj]
    kinds = {weight.dtype for weight in used}
    require(kinds <= {dtype}, f"experts in {' and '.join(map(str, kinds))}")
    matrices = []
    for ups, down in zip(merged, experts.down_proj):
        gate = weights(ups[:inner]) if gates else Matrix()
        matrices += [gate, weights(ups[gates * inner :]), weights(down)]
    made = (Matrix * len(matrices))(*matrices)
    told = Mixture(
        router=weights(router.weight),
        matrices=ctypes.addressof(made),
        count=count,
        chosen=router.top_k,
        inner=inner,
        whole=getattr(router, "norm_topk_prob", True),
        factor=1.0,
    )
    told.held = made
    if hasattr(router, "e_score_correction_bias"):
        _correct(told, router, address)
    return told, used


def _correct(told: Mixture, router: Any, address: Callable[[torch.Tensor], int]) -> None:
    """Of a router that gives each expert a score of its own, and adds something to it for the choice."""
    correction = router.e_score_correction_bias.float()
    told.correction, told.factor = address(correction), router.routed_scaling_factor
    told.groups, told.best_groups = router.num_group, router.topk_group
    size, rest = divmod(told.count, told.groups)
    fits = rest == 0 and (size > 1 or told.groups == 1) and told.groups <= _MOST_GROUPS
    require(fits and told.chosen <= told.best_groups * size, f"{told.groups} groups of {told.count} experts")
    require(correction.shape == (told.count,) and bool(correction.isfinite().all()), "a correction of other scores")
