"""Mixtures of experts as experts.h sees them: how a router chooses, and where the experts' matrices lie."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from bainmarie_worker.engine.fused.layout import Matrix, Mixture, either, epsilon, require

_MOST_GROUPS = 64
"""As in experts.h."""
_OF_EXPERT = 3
"""Matrices of one: gate, up, down."""
_BIASES = (
    "router.bias",
    "experts.gate_up_proj_bias",
    "experts.down_proj_bias",
    "gate.moe_statics.e_score_correction_bias",
)


def mixture(
    block: Any,
    scored: Matrix | None,
    dtype: torch.dtype,
    weights: Callable[[torch.Tensor], Matrix],
    address: Callable[[torch.Tensor], int],
) -> tuple[Mixture, list[Any]]:
    """A block's routed experts, and the parameters of which they are made; their matrices are three-dimensional:
    [experts, 2 * inner, hidden], or without gates [experts, inner, hidden], and [experts, hidden, inner]. Unknown where
    they are not. `scored` is the matrix of a router that has a linear layer."""
    router, experts = either(block, "gate", "router"), block.experts
    scoring = router.wg if hasattr(router, "wg") else router
    told = _told(experts, scoring.weight, router.top_k, dtype, weights)
    told.router = weights(scoring.weight) if scored is None else scored
    biases = [value for name, value in block.named_parameters() if name in _BIASES]
    if getattr(router, "bias", None) is not None:
        told.router.bias = address(router.bias.float())
    if getattr(experts, "has_bias", False):
        _add_biases(told, experts, address)
    told.whole = getattr(router, "norm_topk_prob", True)
    _read_choice(told, router, block, address)
    return told, [scoring.weight, _merged(experts), experts.down_proj, *biases]


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
    turned, alternating = getattr(experts, "is_transposed", False), not getattr(experts, "is_concatenated", True)
    kinds = {weight.dtype for weight in (merged, experts.down_proj)}
    require(kinds <= {dtype}, f"experts in {' and '.join(map(str, kinds))}")
    merged, last = (_turned(one) if turned else one for one in (merged, experts.down_proj))
    count, hidden, inner = last.shape
    gates = int(hasattr(experts, "gate_up_proj"))
    require(merged.shape == (count, (1 + gates) * inner, hidden), "experts whose matrices lie otherwise")
    require(router.shape == (count, hidden) and chosen <= count, "a router of other experts")
    matrices, first = [], 0 if alternating else gates * inner
    for ups, down in zip(merged, last):
        gate = weights(ups[:inner]) if first else Matrix()
        matrices += [gate, weights(ups[first:]), weights(down)]
    made = (Matrix * len(matrices))(*matrices)
    told = Mixture(
        matrices=ctypes.addressof(made), count=count, chosen=chosen, inner=inner, alternating=alternating, factor=1.0
    )
    told.held = made
    if alternating:
        _limit(told, experts)
    return told


def _turned(weights: torch.nn.Parameter) -> torch.Tensor:
    """[experts, in, out] as [experts, out, in] in one piece. Where it lies otherwise, it is laid out anew in its own
    place: the model's code sees the same numbers, and there is no second copy."""
    rows = weights.detach().transpose(1, 2)
    if not rows.is_contiguous():
        rows = rows.contiguous()
        weights.data = rows.transpose(1, 2)
    return rows


def _limit(told: Mixture, experts: Any) -> None:
    """Of experts with gates and what is gated by turns, within a limit. Unknown where their own code differs."""
    told.limit, told.slope, told.lift = experts.limit, experts.alpha, 1.0
    points = torch.cartesian_prod(*[torch.linspace(-2 * told.limit, 2 * told.limit, 33)] * 2)
    gate, up = points[:, 0].clamp(max=told.limit), points[:, 1].clamp(-told.limit, told.limit)
    known = (up + told.lift) * gate * torch.sigmoid(gate * told.slope)
    require(torch.allclose(experts._apply_gate(points.flatten()), known, rtol=1e-5), "experts with other gates")


def _add_biases(told: Mixture, experts: Any, address: Callable[[torch.Tensor], int]) -> None:
    require(bool(told.alternating), "experts with biases in another form")
    for number, (up, down) in enumerate(zip(experts.gate_up_proj_bias.float(), experts.down_proj_bias.float())):
        told.held[number * _OF_EXPERT + 1].bias = address(up)
        told.held[number * _OF_EXPERT + 2].bias = address(down)


def _merged(experts: Any) -> Any:
    """Their gates and what is gated; without gates, what is activated."""
    return getattr(experts, "gate_up_proj", getattr(experts, "up_proj", None))


def _read_choice(told: Mixture, router: Any, block: Any, address: Callable[[torch.Tensor], int]) -> None:
    """How a router chooses, where that is not by the largest scores alone."""
    if hasattr(router, "topk_method"):
        _choose_as_told(told, router)
    if hasattr(router, "e_score_correction_bias"):
        _correct(told, router, router.e_score_correction_bias, address, router.routed_scaling_factor)
    elif hasattr(router, "num_group") and not hasattr(router, "topk_method"):
        _correct(told, router, torch.zeros(told.count), address, router.routed_scaling_factor)
        told.competing = True
    if hasattr(block, "e_score_correction_bias"):
        _correct(told, router, block.e_score_correction_bias, address)
    if hasattr(router, "moe_statics"):
        _correct(told, router, router.moe_statics.e_score_correction_bias[0], address)
        told.competing, told.rest, told.least = True, 0.0, router.norm_min
    if hasattr(router, "use_expert_bias"):
        none = torch.zeros(told.count)
        correction = block.expert_bias if router.use_expert_bias else none
        _correct(told, router, correction, address, router.routed_scaling_factor)
        told.rest = 1e-6


def _choose_as_told(told: Mixture, router: Any) -> None:
    """Of a router whose own code knows several ways to choose, and never makes its weights sum to 1."""
    told.whole, told.factor = False, router.routed_scaling_factor
    require(router.topk_method in ("greedy", "group_limited_greedy"), f"experts chosen by {router.topk_method}")
    if router.topk_method == "group_limited_greedy":
        _choose_from(told, router.num_group, router.topk_group)


def _choose_from(told: Mixture, groups: int, best: int) -> None:
    told.groups, told.best_groups = groups, best
    size, rest = divmod(told.count, groups)
    fits = rest == 0 and groups <= _MOST_GROUPS and told.chosen <= best * size
    require(fits, f"{groups} groups of {told.count} experts")


def _correct(
    told: Mixture,
    router: Any,
    correction: torch.Tensor,
    address: Callable[[torch.Tensor], int],
    factor: float = 1.0,
) -> None:
    """Of a router that adds something to the scores for the choice. `factor` is one of all weights."""
    correction = correction.float()
    told.correction, told.factor, told.rest = address(correction), factor, 1e-20
    require(getattr(router, "n_group", 1) == 1, "groups of experts in the form of older releases")
    _choose_from(told, getattr(router, "num_group", 1), getattr(router, "topk_group", 1))
    require(told.count > told.groups or told.groups == 1, "groups of one expert")
    require(correction.shape == (told.count,) and bool(correction.isfinite().all()), "a correction of other scores")
