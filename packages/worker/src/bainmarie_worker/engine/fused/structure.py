"""A model as decoder.c sees it: where its weights lie, and the numbers that its own code was made with.

Known are the families whose code was read: each layer norm -> attention, or the gated delta rule -> sum, norm -> gated
perceptron, or a mixture of such -> sum. What a member of a family has beyond that (a further parameter, another norm)
makes it unknown, and what cannot be seen from outside is tried (probe.py).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from bainmarie_worker.engine.fused import layout
from bainmarie_worker.engine.fused.layout import Matrix, Unknown
from bainmarie_worker.engine.fused.mixture import Mixture, mixture, shared
from bainmarie_worker.engine.lora import Weights
from bainmarie_worker.packed_linear import Int8Linear

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "granite", "phi3", "gemma", "gemma2", "gemma3"),
    *("ministral", "smollm3", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "glm4_moe"),
    *("olmoe", "olmo2", "olmo3", "flex_olmo", "seed_oss", "glm", "glm4", "helium", "ministral3", "exaone4"),
    *("hunyuan_v1_dense", "granitemoeshared", "dots1", "ernie4_5", "qwen3_5", "qwen3_5_moe"),
)
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
_LATE_NORMS = {"attended": "post_attention_layernorm", "perceived": "post_feedforward_layernorm"}
_MATRICES = 9
_STEADY = ("default", "linear", "llama3", "yarn", "ntk_alpha")
"""Rotary positions whose angles do not depend on how long a sequence is."""
_NEIGHBOURS = ("glm", "glm4", "helium", "ernie4_5")
"""Families whose rotary positions turn neighbouring numbers together."""
_STEP = 32
"""Sizes are multiples of it: two vectors of the widest kind."""
_RANKS = 16
"""Ranks of adapters are made multiples of it: one such vector of float32 numbers."""
_GROUP = 16
"""Outputs of an adapter that lie side by side, those of one rank after those of another."""
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_COARSE = (
    "{} weights in a float32 model: compiled code would round what is multiplied with them to bfloat16 "
    "(with dtype: bfloat16 it is taken)"
)
_pointer, _whole, _real = layout.POINTER, layout.WHOLE, layout.REAL
_require, _either = layout.require, layout.either


class Recurrence(ctypes.Structure):
    _fields_ = (
        *((name, _pointer) for name in ("filter", "rate", "time_bias", "norm")),
        *(
            (name, _whole)
            for name in ("channels", "taps", "key_heads", "value_heads", "key_size", "value_size", "place")
        ),
        ("epsilon", _real),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        ("matrices", Matrix * _MATRICES),
        *((name, _pointer) for name in ("recurrent", "experts")),
        *((name, _pointer) for name in ("before", "after", "attended", "perceived")),
        *((name, _pointer) for name in ("query_norm", "key_norm", "queries_norm", "keys_norm")),
        *((name, _whole) for name in ("window", "angles", "place")),
    )


class Decoder(ctypes.Structure):
    _fields_ = (
        *((name, _pointer) for name in ("layers", "embeddings", "norm")),
        ("head", Matrix),
        *((name, _whole) for name in ("count", "hidden", "heads", "key_heads", "size", "rotary")),
        *((name, _whole) for name in ("embeddings_kind", "cache_kind", "activation", "query_size")),
        *((name, _whole) for name in ("experts", "chosen", "expert_inner")),
        *((name, _whole) for name in ("neighbours", "turned_first", "known")),
        *((name, _real) for name in ("epsilon", "query_epsilon", "scaling", "growth")),
        *((name, _real) for name in ("embedding_scale", "branch_scale", "logit_scale", "score_cap", "logit_cap")),
    )


@dataclass(frozen=True)
class Rows:
    """Neighbouring outputs of a linear layer: all of them, or a part where several matrices are merged into one."""

    linear: Any
    first: int
    count: int


class Structure:
    """`decoder` is what decoder.c reads; the tensors behind its pointers are held as long as this lives."""

    def __init__(self, model: Any) -> None:
        """Unknown where the model is of another kind."""
        self._held: list[Any] = []
        body = getattr(model, "model", model)
        body = getattr(body, "language_model", body)  # of a model that also sees, what reads and writes
        family = type(body).__module__.split(".")
        if family[:2] != ["transformers", "models"] or family[2] not in FAMILIES:
            raise Unknown(f"{type(model).__name__} is not among the known kinds: {', '.join(FAMILIES)}")
        config = body.config
        self.layers = list(body.layers)
        self.rows = [_rows(layer) for layer in self.layers]
        """Of each layer the matrices that decoder.c names, in its order; None for those that it has not."""
        self.attending = 0
        """Layers with keys and values."""
        self.state = 0
        """Numbers that the recurrent layers remember of a sequence."""
        self._mixtures: list[Mixture] = []
        self.dtype: torch.dtype = model.dtype
        self.rotaries, kinds = _rotaries(body, config)
        """A function of (any tensor, positions [1, n]) for each table of angles."""
        self.vocabulary = int(model.get_output_embeddings().out_features)
        """Logits of a row."""
        attentions = [number for number, layer in enumerate(self.layers) if hasattr(layer, "self_attn")]
        _require(bool(attentions), "no layer with attention")
        first, block = self.layers[attentions[0]].self_attn, _perceptron(self.layers[0])
        size = int(first.head_dim)
        self._made = (Layer * len(kinds))(*map(self._layer, self.layers, self.rows, kinds, [config] * len(kinds)))
        embeddings = model.get_input_embeddings().weight
        self.tokens = len(embeddings)
        _require(embeddings.dtype in (torch.float32, torch.bfloat16), f"embeddings in {embeddings.dtype}")
        _require(not getattr(config, "use_bidirectional_attention", False), "attention in both directions")
        _require(getattr(config, "clip_qkv", None) is None, "queries, keys and values within bounds")
        matrices = self._made[attentions[0]].matrices
        heads = matrices[3].inputs // size
        known, growth = _growth(config) if family[2] == "ministral3" else (0, 0.0)
        embedding_scale, branch_scale, logit_scale = _scales(family[2], config, embeddings.dtype)
        self.decoder = Decoder(
            layers=ctypes.cast(self._made, _pointer),
            embeddings=self._address(embeddings),
            norm=self._norm(body.norm),
            head=self._matrix(_whole_of(model.get_output_embeddings())),
            count=len(self.layers),
            hidden=matrices[0].inputs,
            heads=heads,
            key_heads=matrices[1].outputs // size,
            size=size,
            rotary=self.rotaries[0](torch.zeros(1), torch.zeros(1, 1, dtype=torch.long))[0].shape[-1],
            embeddings_kind=_KINDS[embeddings.dtype],
            cache_kind=_KINDS.get(self.dtype, -1),
            query_size=matrices[0].outputs // heads,
            activation=_activation(_either(getattr(block, "experts", block), "act_fn", "activation_fn")),
            experts=max((one.count for one in self._mixtures), default=0),
            chosen=max((one.chosen for one in self._mixtures), default=0),
            expert_inner=max((one.inner for one in self._mixtures), default=0),
            epsilon=_epsilon(body.norm),
            neighbours=family[2] in _NEIGHBOURS,
            turned_first=hasattr(first, "query_layernorm"),
            known=known,
            query_epsilon=next(map(_epsilon, _of_heads(first)), 0.0),
            scaling=first.scaling,
            growth=growth,
            embedding_scale=embedding_scale,
            branch_scale=branch_scale,
            logit_scale=logit_scale,
            score_cap=config.attn_logit_softcapping or 0.0 if family[2] == "gemma2" else 0.0,
            logit_cap=getattr(config, "final_logit_softcapping", None) or 0.0,
        )
        whole = self.decoder
        inner = {layer.matrices[4].outputs for layer in self._made} | {one.inner for one in self._mixtures}
        sizes = (whole.hidden, *inner, whole.size, whole.heads * whole.size)
        gated = 1 + family[2].startswith("qwen3_5")
        _require(whole.query_size == gated * whole.size, "queries of another size than keys")
        _require(self.dtype in (torch.float32, torch.bfloat16), f"keys and values in {self.dtype}")
        _require(not any(value % _STEP for value in sizes), f"sizes {sizes} that are no multiples of {_STEP}")

    def _layer(self, layer: Any, rows: list[Rows | None], angles: int, config: Any) -> Layer:
        attention, delta = (getattr(layer, name, None) for name in ("self_attn", "linear_attn"))
        block = _perceptron(layer)
        matrices = [Matrix() if one is None else self._matrix(one) for one in rows]
        for group in (0, 1, 2, 8), (4, 5, 7):
            kinds = {matrices[place].kind for place in group if rows[place]}
            _require(len(kinds) <= 1, "layers with one input in several kinds of weights")
        _require(not (matrices[7].weight and matrices[6].bias), "a bias that counts in part")
        norms = _norms(layer) | _head_norms(attention, matrices)
        modules = [*norms.values(), *(one.linear for one in rows if one)]
        used = {id(value) for module in modules for value in module.parameters()}
        recurrent = None
        if delta is not None:
            recurrent = ctypes.addressof(self._recurrence(delta))
            used |= {id(value) for value in (delta.conv1d.weight, delta.A_log, delta.dt_bias, delta.norm.weight)}
        experts = None
        if hasattr(block, "experts"):
            _require(not ("perceived" in norms and rows[4]), "experts and a shared one before a norm")
            mixed, parameters = mixture(block, self.dtype, self._weights, self._address)
            experts = ctypes.addressof(mixed)
            used |= {id(value) for value in parameters}
            self._mixtures.append(mixed)
        for name, value in layer.named_parameters():
            _require(id(value) in used or ".lora_" in name, f"a layer with {name}")
        self.attending += delta is None
        return Layer(
            matrices=(Matrix * _MATRICES)(*matrices),
            recurrent=recurrent,
            experts=experts,
            window=0 if delta is not None else _window(attention, config) or 0,
            angles=angles,
            place=self.attending - 1,
            **{name: self._norm(module) for name, module in norms.items()},
        )

    def _recurrence(self, delta: Any) -> Recurrence:
        """Of a layer of the gated delta rule."""
        activations = {delta.activation, getattr(delta.norm, "activation", "silu")}
        _require(activations == {"silu"}, "recurrent layers with another activation than silu")
        channels, one, taps = delta.conv1d.weight.shape
        sizes = (delta.head_k_dim, delta.head_v_dim)
        _require(delta.num_v_heads % delta.num_k_heads == 0, "recurrent layers whose heads share no keys")
        _require(not any(size % _STEP for size in sizes), f"sizes {sizes} that are no multiples of {_STEP}")
        _require(one == 1 and delta.conv1d.bias is None, "recurrent layers that mix their inputs otherwise")
        _require(channels == 2 * delta.key_dim + delta.value_dim, "recurrent layers that mix their inputs otherwise")
        made = Recurrence(
            filter=self._address(delta.conv1d.weight.detach()[:, 0].t().float().contiguous()),
            rate=self._address(delta.A_log.detach().float().exp()),
            time_bias=self._address(delta.dt_bias.detach().float()),
            norm=self._address(delta.norm.weight.detach().float()),
            channels=channels,
            taps=taps,
            key_heads=delta.num_k_heads,
            value_heads=delta.num_v_heads,
            key_size=delta.head_k_dim,
            value_size=delta.head_v_dim,
            place=self.state,
            epsilon=_epsilon(delta.norm),
        )
        self.state += (taps - 1) * channels + delta.num_v_heads * delta.head_k_dim * delta.head_v_dim
        self._held.append(made)
        return made

    def _matrix(self, rows: Rows) -> Matrix:
        linear, part = rows.linear, slice(rows.first, rows.first + rows.count)
        _require(type(linear) in (torch.nn.Linear, Int8Linear), f"linear layers of the kind {type(linear).__name__}")
        made = self._weights(linear.weight[part])
        if isinstance(linear, Int8Linear):
            made.scale = self._address(linear.scales[part].float())
        if linear.bias is not None:
            made.bias = self._address(linear.bias[part].float())
        return made

    def _weights(self, weight: torch.Tensor) -> Matrix:
        _require(type(weight) in (torch.Tensor, torch.nn.Parameter), f"weights of the kind {type(weight).__name__}")
        _require(weight.dtype in _KINDS, f"weights in {weight.dtype}")
        _require(self.dtype != torch.float32 or weight.dtype == torch.float32, _COARSE.format(weight.dtype))
        _require(weight.is_contiguous() and weight.device.type == "cpu", "weights that are not in one piece in memory")
        outputs, inputs = weight.shape
        return Matrix(weight=self._address(weight), inputs=inputs, outputs=outputs, kind=_KINDS[weight.dtype])

    def _norm(self, module: Any) -> int:
        """The factors of an RMS norm, as its own code applies them: what it makes of ones."""
        count = module.weight.numel()
        ones = module(torch.ones(1, count))[0].float() * (1 + _epsilon(module)) ** 0.5
        return self._address(ones.contiguous())

    def _address(self, tensor: torch.Tensor) -> int:
        held = tensor.detach()
        self._held.append(held)
        return held.data_ptr()


class Change(ctypes.Structure):
    _fields_ = (("down", _pointer), ("up", _pointer), ("rank", _whole))


class Changes:
    """What one adapter does to a structure's matrices. `address` is where decoder.c finds it."""

    def __init__(self, structure: Structure, weights: Weights) -> None:
        """Unknown where one of the changed layers is none of the structure's."""
        self._held: list[torch.Tensor] = []
        self.rank = 0
        rows = [one for layer in structure.rows for one in layer]
        _require(not set(weights) - {one.linear for one in rows if one}, "an adapter of other layers")
        changes = (self._change(one, weights.get(one.linear)) if one else Change() for one in rows)
        self._made = (Change * len(rows))(*changes)
        self.address = ctypes.addressof(self._made)

    def _change(self, rows: Rows, pair: tuple[torch.Tensor, torch.Tensor] | None) -> Change:
        if pair is None:
            return Change()
        down, up = pair[0], pair[1][rows.first : rows.first + rows.count]
        more = -len(down) % _RANKS
        down = F.pad(down.float(), (0, 0, 0, more)).contiguous()
        up = F.pad(up.float(), (0, more, 0, -len(up) % _GROUP))
        up = up.unflatten(0, (-1, _GROUP)).transpose(1, 2).contiguous()
        self._held += down, up
        self.rank = max(self.rank, len(down))
        return Change(down.data_ptr(), up.data_ptr(), len(down))


class Angles:
    """Cosines and sines of rotary positions, [tables, positions, rotary] in float32, made by the model's own code."""

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
        self.cosines, self.sines = (torch.cat(tables).contiguous() for tables in zip(*made))


@functools.cache
def _functions() -> tuple[Any, ...]:
    """In the order of decoder.c's activations."""
    return F.silu, F.gelu, functools.partial(F.gelu, approximate="tanh")


def _activation(function: Any) -> int:
    points = torch.linspace(-8, 8, 257)
    given = function(points)
    for number, known in enumerate(_functions()):
        if torch.allclose(given, known(points), rtol=1e-5, atol=1e-6):
            return number
    raise Unknown(f"the activation {type(function).__name__}")


def _growth(config: Any) -> tuple[int, float]:
    """The positions after which queries grow, and by how much."""
    told = config.rope_parameters
    return int(told["original_max_position_embeddings"]), float(told["llama_4_scaling_beta"])


def _window(attention: Any, config: Any) -> int | None:
    """Tokens that a layer sees; None for all."""
    if not getattr(attention, "is_sliding", True):
        return None
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window  # type: ignore[no-any-return]
    window: int | None = (
        getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    )
    _require(window is None or not hasattr(config, "max_window_layers"), "windows in some layers that it does not name")
    return window


def _perceptron(layer: Any) -> Any:
    return _either(layer, "mlp", "block_sparse_moe")


def _norms(layer: Any) -> dict[str, Any]:
    """A layer's norms by decoder.c's names, which its own code calls in one of several ways."""
    for places in (_BRANCH_NORMS, _GLM_NORMS, _NORMS, _LATE_NORMS):
        if all(hasattr(layer, place) for place in places.values()):
            return {name: getattr(layer, place) for name, place in places.items()}
    raise Unknown("layers with other norms")


def _head_norms(attention: Any, matrices: Sequence[Matrix]) -> dict[str, Any]:
    """Those of queries and keys: of each head, or of all heads together."""
    norms = _of_heads(attention)
    sizes = [norm.weight.numel() for norm in norms]
    if not norms or sizes == [attention.head_dim] * 2:
        return dict(zip(("query_norm", "key_norm"), norms))
    _require(sizes == [matrix.outputs for matrix in matrices[:2]], "norms of some heads")
    return dict(zip(("queries_norm", "keys_norm"), norms))


def _of_heads(attention: Any) -> list[Any]:
    """The norms of queries and of keys; empty where it has none."""
    found = [getattr(attention, name, None) for name in ("q_norm", "k_norm", "query_layernorm", "key_layernorm")]
    norms = [norm for norm in found if norm is not None]
    _require(len(norms) in (0, 2), "norms of queries or of keys alone")
    return norms


def _rows(layer: Any) -> list[Rows | None]:
    """In decoder.c's order: query, key, value, out, gate, up, down, amount, decay."""
    perceived = _perceived(layer)
    if hasattr(layer, "linear_attn"):
        delta = layer.linear_attn
        projected = (delta.in_proj_qkv, delta.in_proj_z, delta.in_proj_b, delta.out_proj)
        return [*map(_whole_of, projected), *perceived, _whole_of(delta.in_proj_a)]
    return [*_attended(layer.self_attn), *perceived, None]


def _perceived(layer: Any) -> list[Rows | None]:
    """Gate, up, down, and how much of what these give is added."""
    perceptron, amount = _perceptron(layer), None
    if hasattr(perceptron, "experts"):
        perceptron, amount = shared(layer, perceptron)
    if perceptron is None:
        return [None, None, None, None]
    down = _whole_of(_either(perceptron, "down_proj", "output_linear"))
    part = None if amount is None else _whole_of(amount)
    if hasattr(perceptron, "gate_up_proj") or hasattr(perceptron, "input_linear"):
        merged = _base(_either(perceptron, "gate_up_proj", "input_linear"))
        inner = merged.out_features // 2
        return [Rows(merged, 0, inner), Rows(merged, inner, inner), down, part]
    return [_whole_of(perceptron.gate_proj), _whole_of(perceptron.up_proj), down, part]


def _attended(attention: Any) -> list[Rows]:
    """Query, key, value, out."""
    out = _whole_of(attention.o_proj)
    if hasattr(attention, "qkv_proj"):
        keys = attention.num_key_value_heads * attention.head_dim
        merged, size = _base(attention.qkv_proj), [keys * attention.num_key_value_groups, keys, keys]
        ends = [sum(size[: n + 1]) for n in range(3)]
        return [*(Rows(merged, end - count, count) for end, count in zip(ends, size)), out]
    return [*map(_whole_of, (attention.q_proj, attention.k_proj, attention.v_proj)), out]


def _whole_of(linear: Any) -> Rows:
    base = _base(linear)
    return Rows(base, 0, base.out_features)


def _rotaries(body: Any, config: Any) -> tuple[list[Callable[..., Any]], list[int]]:
    """The functions that make angles, and which of them each layer uses."""
    rotary, types = body.rotary_emb, list(getattr(config, "layer_types", None) or [])
    local = getattr(body, "rotary_emb_local", None)
    for module in (rotary, local):
        told = getattr(module, "rope_type", "default")
        for kind in told.values() if isinstance(told, dict) else (told,):
            _require(kind in _STEADY, f"rotary positions of the kind {kind}")
    if local is not None:  # gemma3 before transformers 5
        return [rotary, local], [int(bool(layer.self_attn.is_sliding)) for layer in body.layers]
    if hasattr(rotary, "layer_types"):
        kinds = list(rotary.layer_types)
        made: list[Callable[..., Any]] = [functools.partial(rotary, layer_type=kind) for kind in kinds]
        return made, [kinds.index(kind) for kind, _ in zip(types, body.layers)]
    without = [int(not _turns(getattr(layer, "self_attn", None), config)) for layer in body.layers]
    return [rotary, functools.partial(_unturned, rotary)][: 1 + max(without)], without


def _turns(attention: Any, config: Any) -> bool:
    """Whether a layer turns its queries and keys by their positions."""
    if config.model_type == "exaone4":
        return attention.sliding_window is None or bool(attention.is_sliding)
    return bool(getattr(attention, "use_rope", True))


def _unturned(rotary: Any, *asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles of layers that do not turn by positions."""
    cosines, sines = rotary(*asked)
    return torch.ones_like(cosines), torch.zeros_like(sines)


def _scales(family: str, config: Any, dtype: torch.dtype) -> tuple[float, float, float]:
    """Of embeddings, of what a branch adds, of logits."""
    if family.startswith("granite"):
        return config.embedding_multiplier, config.residual_multiplier, 1 / config.logits_scaling
    if family.startswith("gemma"):
        return float(torch.tensor(config.hidden_size**0.5, dtype=dtype)), 1.0, 1.0
    return 1.0, 1.0, 1.0


def _epsilon(norm: Any) -> float:
    return float(_either(norm, "variance_epsilon", "eps"))


def _base(linear: Any) -> Any:
    """The layer itself, whatever peft has put around it."""
    return getattr(linear, "base_layer", linear)
