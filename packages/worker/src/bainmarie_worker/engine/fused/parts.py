"""Where a layer's own code keeps its matrices and norms, in the words of decoder.c."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from bainmarie_worker.engine.fused.layout import Matrix, Unknown, base, either, require

_NORMS = {"before": "input_layernorm", "after": "post_attention_layernorm"}
_BRANCH_NORMS = {
    "before": "input_layernorm",
    "attended": "post_attention_layernorm",
    "after": "pre_feedforward_layernorm",
    "perceived": "post_feedforward_layernorm",
}
_GLM_NORMS = {
    "before": "input_layernorm",
    "attended": "post_self_attn_layernorm",
    "after": "post_attention_layernorm",
    "perceived": "post_mlp_layernorm",
}
_LIQUID_NORMS = {"before": "operator_norm", "after": "ffn_norm"}
_HYBRID_NORMS = {"before": "input_layernorm", "after": "pre_ff_layernorm"}
_LAST_NORMS = {"reminded": "post_per_layer_input_norm"}
_LATE_NORMS = {"attended": "post_attention_layernorm", "perceived": "post_feedforward_layernorm"}
_HEAD_NORMS = ("q_norm", "k_norm", "query_layernorm", "key_layernorm", "q_layernorm", "k_layernorm")


@dataclass(frozen=True)
class Rows:
    """Outputs of a linear layer: all of them, or a part where several matrices are merged into one."""

    linear: Any
    first: int
    count: int
    factor: float = 1.0
    """Of what it gives, bias included."""
    order: torch.Tensor | None = None
    """Which outputs these are, where they are no neighbours."""

    @property
    def part(self) -> slice | torch.Tensor:
        return slice(self.first, self.first + self.count) if self.order is None else self.order


@dataclass(frozen=True)
class Half:
    """A layer of decoder.c where it is not one of the model's: its parts by the names that most families give them."""

    norms: dict[str, Any]
    self_attn: Any = None
    mamba: Any = None
    mlp: Any = None
    taken: float = 1.0
    """Factor of the input of attention, or of what is in its place."""
    given: float = 1.0
    """Factor of its output."""
    beside: bool = False
    """Whether it takes the input of the one before it."""


def layers_of(layer: Any) -> list[Any]:
    """The layers that decoder.c makes of a model's layer: itself, or two where branches stand side by side."""
    if hasattr(layer, "mixer"):
        kind = getattr(layer, "block_type", "linear_attention")
        name = {"linear_attention": "mamba", "full_attention": "self_attn"}.get(kind, "mlp")
        return [Half({"after" if name == "mlp" else "before": layer.norm}, **{name: layer.mixer})]
    if getattr(layer, "mamba", None) is None or attention_of(layer) is None:
        return [layer]
    first = Half(
        {"before": layer.input_layernorm},
        mamba=layer.mamba,
        taken=layer.mamba.ssm_in_multiplier,
        given=layer.ssm_out_multiplier,
    )
    second = Half(
        {"after": layer.pre_ff_layernorm},
        self_attn=layer.self_attn,
        mlp=layer.feed_forward,
        taken=layer.attention_in_multiplier,
        given=layer.attn_out_multiplier,
        beside=True,
    )
    return [first, second]


def rows_of(layer: Any) -> list[Rows | None]:
    """In decoder.c's order: query, key, value, out, gate, up, down, amount, decay, token, token gate, token out, latent
    query, latent."""
    return [*_without_latents(layer), *_latents(layer)]


def _without_latents(layer: Any) -> list[Rows | None]:
    perceived, last = _perceived(layer), _reminded(layer)
    if hasattr(layer, "linear_attn"):
        delta = layer.linear_attn
        if hasattr(delta, "in_proj_qkvz"):
            *mixed, decays = _by_key_heads(delta)
            return [*mixed, whole_of(delta.out_proj), *perceived, decays, *last]
        projected = (delta.in_proj_qkv, delta.in_proj_z, delta.in_proj_b, delta.out_proj)
        return [*map(whole_of, projected), *perceived, whole_of(delta.in_proj_a), *last]
    if hasattr(layer, "conv"):
        short = layer.conv
        return [
            *_parts(short.in_proj, [base(short.out_proj).in_features] * 3),
            whole_of(short.out_proj),
            *perceived,
            None,
            *last,
        ]
    if getattr(layer, "mamba", None) is not None:
        return [*_scanned(layer), *perceived, None, *last]
    if attention_of(layer) is not None:
        return [*_attended(layer), *perceived, None, *last]
    return [None, None, None, None, *perceived, None, *last]


def _by_key_heads(delta: Any) -> list[Rows]:
    """Query, key, value, decay of a delta rule that has all of one key head side by side in its merged matrices."""
    keys, values = delta.head_k_dim, delta.head_v_dim * delta.num_v_heads // delta.num_k_heads
    shared = delta.num_v_heads // delta.num_k_heads
    *mixed, gates = _dealt(delta.in_proj_qkvz, delta.num_k_heads, [keys, keys, values, values])
    learnt, left = _dealt(delta.in_proj_ba, delta.num_k_heads, [shared, shared])
    orders = (delta.in_proj_qkvz, torch.cat(mixed)), (delta.in_proj_qkvz, gates), (delta.in_proj_ba, learnt)
    return [Rows(base(linear), 0, len(order), order=order) for linear, order in (*orders, (delta.in_proj_ba, left))]


def _dealt(linear: Any, heads: int, counts: Sequence[int]) -> list[torch.Tensor]:
    """Of each part the outputs that give it, where every head has so many of each one after the other."""
    outputs = base(linear).out_features
    require(outputs == heads * sum(counts), "merged matrices of other sizes")
    return [part.flatten() for part in torch.arange(outputs).view(heads, -1).split(list(counts), 1)]


def _reminded(layer: Any) -> list[Rows | None]:
    """Token, token gate, token out; the first is the body's, see `structure.py`."""
    if not hasattr(layer, "per_layer_input_gate"):
        return [None, None, None]
    return [None, whole_of(layer.per_layer_input_gate), whole_of(layer.per_layer_projection)]


def _scanned(layer: Any) -> list[Rows]:
    """Values, keys and queries, gates, times, out. Factors of the first are recurrence.py's."""
    mamba = layer.mamba
    gates, mixed, times = _parts(mamba.in_proj, [mamba.intermediate_size, mamba.conv_dim, mamba.num_heads])
    taken, given = getattr(layer, "taken", 1.0), getattr(layer, "given", 1.0)
    factors = getattr(mamba, "mup_vector", None)
    require(taken == 1 or base(mamba.in_proj).bias is None, "a bias that is not scaled")
    if factors is not None:
        first, last = (float(factors.flatten()[place]) for place in (0, -1))
        gates, times = replace(gates, factor=taken * first), replace(times, factor=taken * last)
    return [mixed, gates, times, whole_of(mamba.out_proj, given)]


def _perceived(layer: Any) -> list[Rows | None]:
    """Gate, up, down, and how much of what these give is added."""
    perceptron, amount = perceptron_of(layer), None
    if hasattr(perceptron, "experts"):
        perceptron, amount = _shared(layer, perceptron)
    if perceptron is None:
        return [None, None, None, None]
    down = whole_of(either(perceptron, "down_proj", "output_linear", "w2"), getattr(perceptron, "down_multiplier", 1.0))
    part = None if amount is None else whole_of(amount)
    if hasattr(perceptron, "gate_up_proj") or hasattr(perceptron, "input_linear"):
        merged = base(either(perceptron, "gate_up_proj", "input_linear"))
        return [*_parts(merged, [merged.out_features // 2] * 2), down, part]
    gate = None
    if hasattr(perceptron, "gate_proj") or hasattr(perceptron, "w1"):
        gate = whole_of(either(perceptron, "gate_proj", "w1"), getattr(perceptron, "gate_multiplier", 1.0))
    return [gate, whole_of(either(perceptron, "up_proj", "w3")), down, part]


def _shared(layer: Any, block: Any) -> tuple[Any, Any]:
    """The perceptron beside a block's experts, and what tells how much of it is added, by a logistic function. None for
    each that is missing."""
    places = (block, "shared_expert"), (block, "shared_experts"), (block, "shared_mlp"), (layer, "shared_mlp")
    found = (getattr(of, name, None) for of, name in places)
    return next((one for one in found if one is not None), None), getattr(block, "shared_expert_gate", None)


def _attended(layer: Any) -> list[Rows | None]:
    """Query, key, value, out. None where values are keys, or both are those of another layer."""
    attention, taken = layer.self_attn, getattr(layer, "taken", 1.0)
    out = whole_of(either(attention, "o_proj", "out_proj"), getattr(layer, "given", 1.0))
    if is_latent(attention):
        query = attention.q_proj if attention.q_lora_rank is None else attention.q_b_proj
        return [whole_of(query), whole_of(attention.kv_b_proj), None, out]
    if hasattr(attention, "qkv_proj"):
        keys = attention.num_key_value_heads * attention.head_dim
        return [*_parts(attention.qkv_proj, [keys * attention.num_key_value_groups, keys, keys]), out]
    require(taken == 1 or base(attention.q_proj).bias is None, "a bias that is not scaled")
    key, value = (getattr(attention, name, None) for name in ("k_proj", "v_proj"))
    scaled = taken * getattr(attention, "key_multiplier", 1.0)
    return [
        whole_of(attention.q_proj, taken),
        None if key is None else whole_of(key, scaled),
        None if value is None else whole_of(value, taken),
        out,
    ]


def _latents(layer: Any) -> list[Rows | None]:
    """Latent query, latent."""
    attention = attention_of(layer)
    if not is_latent(attention):
        return [None, None]
    return [
        None if attention.q_lora_rank is None else whole_of(attention.q_a_proj),
        whole_of(attention.kv_a_proj_with_mqa),
    ]


def is_latent(attention: Any) -> bool:
    """Whether its keys and values are made of latents."""
    return hasattr(attention, "kv_a_proj_with_mqa")


def latent_norms(attention: Any) -> dict[str, Any]:
    """Of latents, by decoder.c's names."""
    if not is_latent(attention):
        return {}
    norms = {"latent_norm": attention.kv_a_layernorm}
    return norms if attention.q_lora_rank is None else norms | {"latent_query_norm": attention.q_a_layernorm}


def widths_of(attention: Any) -> tuple[int, int, int]:
    """Numbers of a head's keys, of its values, and of its keys before those that turn."""
    if is_latent(attention):
        return attention.qk_head_dim, attention.v_head_dim, attention.qk_nope_head_dim
    size = int(attention.head_dim)
    return size, size, 0


def _parts(linear: Any, counts: Sequence[int]) -> list[Rows]:
    """Of merged matrices one after the other."""
    merged, ends = base(linear), list(accumulate(counts))
    require(merged.out_features == ends[-1], "merged matrices of other sizes")
    return [Rows(merged, end - count, count) for end, count in zip(ends, counts)]


def whole_of(linear: Any, factor: float = 1.0) -> Rows:
    layer = base(linear)
    return Rows(layer, 0, layer.out_features, factor)


def attention_of(layer: Any) -> Any:
    """None where it has none."""
    return getattr(layer, "self_attn", None)


def perceptron_of(layer: Any) -> Any:
    """Or what has experts in its place. None where it has neither."""
    found = (getattr(layer, name, None) for name in ("mlp", "block_sparse_moe", "feed_forward", "shared_mlp"))
    return next((one for one in found if one is not None), None)


def norms_of(layer: Any) -> dict[str, Any]:
    """A layer's norms by decoder.c's names, which its own code calls in one of several ways."""
    if isinstance(layer, Half):
        return layer.norms
    for places in (_BRANCH_NORMS, _GLM_NORMS, _NORMS, _LATE_NORMS, _LIQUID_NORMS, _HYBRID_NORMS):
        if all(hasattr(layer, place) for place in places.values()):
            last = {name: getattr(layer, place) for name, place in _LAST_NORMS.items() if hasattr(layer, place)}
            return {name: getattr(layer, place) for name, place in places.items()} | last
    raise Unknown("layers with other norms")


def head_norms(attention: Any, matrices: Sequence[Matrix]) -> dict[str, Any]:
    """Those of queries and keys: of each head, or of all heads together."""
    norms = of_heads(attention)
    sizes = [norm.weight.numel() for norm in norms]
    if not norms or sizes == [attention.head_dim] * len(norms):
        return dict(zip(("query_norm", "key_norm"), norms))
    require(sizes == [matrix.outputs for matrix in matrices[:2]], "norms of some heads")
    return dict(zip(("queries_norm", "keys_norm"), norms))


def of_heads(attention: Any) -> list[Any]:
    """The norms of queries and of keys; empty where it has none."""
    found = [getattr(attention, name, None) for name in _HEAD_NORMS]
    norms = [norm for norm in found if norm is not None]
    require(len(norms) in (0, 1 if borrows(attention) else 2), "norms of queries or of keys alone")
    return norms


def borrows(attention: Any) -> bool:
    """Whether it looks at the keys and values of a layer before it."""
    return bool(getattr(attention, "is_kv_shared_layer", False))
