"""Where a layer's own code keeps its matrices and norms, in the words of decoder.c."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bainmarie_worker.engine.fused.layout import Matrix, Unknown, base, either, require
from bainmarie_worker.engine.fused.mixture import shared

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
_LAST_NORMS = {"reminded": "post_per_layer_input_norm"}
_LATE_NORMS = {"attended": "post_attention_layernorm", "perceived": "post_feedforward_layernorm"}


@dataclass(frozen=True)
class Rows:
    """Neighbouring outputs of a linear layer: all of them, or a part where several matrices are merged into one."""

    linear: Any
    first: int
    count: int


def rows_of(layer: Any) -> list[Rows | None]:
    """In decoder.c's order: query, key, value, out, gate, up, down, amount, decay, token, token gate, token out."""
    perceived = _perceived(layer)
    if hasattr(layer, "linear_attn"):
        delta = layer.linear_attn
        projected = (delta.in_proj_qkv, delta.in_proj_z, delta.in_proj_b, delta.out_proj)
        return [*map(whole_of, projected), *perceived, whole_of(delta.in_proj_a), *_reminded(layer)]
    return [*_attended(layer.self_attn), *perceived, None, *_reminded(layer)]


def _reminded(layer: Any) -> list[Rows | None]:
    """Token, token gate, token out; the first is the body's, see `structure.py`."""
    if not hasattr(layer, "per_layer_input_gate"):
        return [None, None, None]
    return [None, whole_of(layer.per_layer_input_gate), whole_of(layer.per_layer_projection)]


def _perceived(layer: Any) -> list[Rows | None]:
    """Gate, up, down, and how much of what these give is added."""
    perceptron, amount = perceptron_of(layer), None
    if hasattr(perceptron, "experts"):
        perceptron, amount = shared(layer, perceptron)
    if perceptron is None:
        return [None, None, None, None]
    down = whole_of(either(perceptron, "down_proj", "output_linear"))
    part = None if amount is None else whole_of(amount)
    if hasattr(perceptron, "gate_up_proj") or hasattr(perceptron, "input_linear"):
        merged = base(either(perceptron, "gate_up_proj", "input_linear"))
        inner = merged.out_features // 2
        return [Rows(merged, 0, inner), Rows(merged, inner, inner), down, part]
    return [whole_of(perceptron.gate_proj), whole_of(perceptron.up_proj), down, part]


def _attended(attention: Any) -> list[Rows | None]:
    """Query, key, value, out. None where values are keys, or both are those of another layer."""
    out = whole_of(attention.o_proj)
    if hasattr(attention, "qkv_proj"):
        keys = attention.num_key_value_heads * attention.head_dim
        merged, size = base(attention.qkv_proj), [keys * attention.num_key_value_groups, keys, keys]
        ends = [sum(size[: n + 1]) for n in range(3)]
        return [*(Rows(merged, end - count, count) for end, count in zip(ends, size)), out]
    projected = (getattr(attention, name, None) for name in ("q_proj", "k_proj", "v_proj"))
    return [*(None if linear is None else whole_of(linear) for linear in projected), out]


def whole_of(linear: Any) -> Rows:
    layer = base(linear)
    return Rows(layer, 0, layer.out_features)


def perceptron_of(layer: Any) -> Any:
    return either(layer, "mlp", "block_sparse_moe")


def norms_of(layer: Any) -> dict[str, Any]:
    """A layer's norms by decoder.c's names, which its own code calls in one of several ways."""
    for places in (_BRANCH_NORMS, _GLM_NORMS, _NORMS, _LATE_NORMS):
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
    found = [getattr(attention, name, None) for name in ("q_norm", "k_norm", "query_layernorm", "key_layernorm")]
    norms = [norm for norm in found if norm is not None]
    require(len(norms) in (0, 1 if borrows(attention) else 2), "norms of queries or of keys alone")
    return norms


def borrows(attention: Any) -> bool:
    """Whether it looks at the keys and values of a layer before it."""
    return bool(getattr(attention, "is_kv_shared_layer", False))
