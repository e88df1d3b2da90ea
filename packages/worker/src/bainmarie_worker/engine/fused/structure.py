"""A model as decoder.c sees it: where its weights lie, and the numbers that its own code was made with.

Known are the families whose code was read: each layer norm -> attention, or a recurrent layer in its place -> sum, norm
-> perceptron, or a mixture of such -> sum; or one of both alone, or attention beside a recurrent layer. What a member
of a family has beyond that (a further parameter, another norm) makes it unknown, and what cannot be seen from outside
is tried (probe.py).
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch.nn import functional as F

from bainmarie_worker.engine.fused.angles import growth, rotaries, widths
from bainmarie_worker.engine.fused.layout import (
    AMOUNT,
    DECAY,
    DOWN,
    GATE,
    KEY,
    LATENT,
    LATENT_QUERY,
    MATRICES,
    POINTER,
    QUERY,
    TOKEN,
    TOKEN_GATE,
    UP,
    VALUE,
    Decoder,
    Layer,
    Matrix,
    Mixture,
    Unknown,
    either,
    epsilon,
    require,
)
from bainmarie_worker.engine.fused.memory import Kept
from bainmarie_worker.engine.fused.mixture import apart, mixture
from bainmarie_worker.engine.fused.parts import (
    Rows,
    attention_of,
    borrows,
    head_norms,
    is_latent,
    latent_norms,
    layers_of,
    norms_of,
    of_heads,
    perceptron_of,
    rows_of,
    whole_of,
    widths_of,
)
from bainmarie_worker.engine.fused.recurrence import floats_of, recurrence, recurrent_of, trace_of
from bainmarie_worker.packed_linear import Int8Linear

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "granite", "phi3", "gemma", "gemma2", "gemma3"),
    *("ministral", "smollm3", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "glm4_moe"),
    *("olmoe", "olmo2", "olmo3", "flex_olmo", "seed_oss", "glm", "glm4", "helium", "ministral3", "exaone4"),
    *("hunyuan_v1_dense", "granitemoeshared", "dots1", "ernie4_5", "qwen3_5", "qwen3_5_moe"),
    *("lfm2", "granitemoehybrid", "falcon_h1", "nemotron_h", "bamba", "mamba2", "lfm2_moe"),
    *("gemma4", "gemma4_unified", "gpt_oss"),
    *("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "youtu", "qwen3_next"),
    *("minimax_m2", "ernie4_5_moe", "hunyuan_v1_moe", "exaone_moe", "mistral4"),
)
_NEIGHBOURS = ("glm", "glm4", "helium", "ernie4_5", "ernie4_5_moe", "deepseek_v2")
"""Families whose rotary positions turn neighbouring numbers together."""
_GROWING = ("ministral3", "mistral4")
"""Families whose queries grow with their positions."""
_STEP = 32
"""Sizes are multiples of it: two vectors of the widest kind."""
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_COARSE = (
    "{} weights in a float32 model: compiled code would round what is multiplied with them to bfloat16 "
    "(with dtype: bfloat16 it is taken)"
)


class Structure:
    """`decoder` is what decoder.c reads; the tensors behind its pointers are held as long as this lives."""

    def __init__(self, model: Any) -> None:
        """Unknown where the model is of another kind."""
        self._held: list[Any] = []
        body = getattr(model, "model", getattr(model, "backbone", model))
        body = getattr(body, "language_model", body)  # of a model that also sees, what reads and writes
        family = type(body).__module__.split(".")
        if family[:2] != ["transformers", "models"] or family[2] not in FAMILIES:
            raise Unknown(f"{type(model).__name__} is not among the known kinds: {', '.join(FAMILIES)}")
        config = body.config
        divided = [layers_of(layer) for layer in body.layers]
        self.layers = [layer for layers in divided for layer in layers]
        self.rows = [rows_of(layer) for layer in self.layers]
        """Of each layer the matrices that decoder.c names, in its order; None for those that it has not."""
        if hasattr(body, "embed_tokens_per_layer"):
            self.rows[0][TOKEN] = whole_of(body.per_layer_model_projection)
        self.kept: list[Kept] = []
        """Of each layer with attention where its keys and values are, its own or those of another."""
        self.state = 0
        """Numbers that the recurrent layers remember of a sequence."""
        self.trace = 0
        """Numbers that they take in of a row."""
        self._mixtures: list[Mixture] = []
        self._lent: dict[str, Kept] = {}
        """By the kind of layer the keys and values that later ones of that kind look at too."""
        self.dtype: torch.dtype = model.dtype
        self.rotaries, tables = rotaries(body, config)
        """A function of (any tensor, positions [1, n]) for each table of angles."""
        kinds = [table for table, layers in zip(tables, divided) for _ in layers]
        self.vocabulary = int(model.get_output_embeddings().out_features)
        """Logits of a row."""
        first = next(filter(None, map(attention_of, self.layers)), None)
        block = next(filter(None, map(perceptron_of, self.layers)), None)
        norm, turned = either(body, "norm", "embedding_norm", "final_layernorm", "norm_f"), widths(self.rotaries)
        self._known: set[int] = set()
        self._made = (Layer * len(kinds))(*map(self._layer, self.layers, self.rows, kinds, [config] * len(kinds)))
        for layer in self._made:
            layer.rotary = turned[layer.angles]
        for name, value in body.layers.named_parameters():
            require(id(value) in self._known or ".lora_" in name, f"a layer with {name.partition('.')[2]}")
        embeddings = model.get_input_embeddings().weight
        self.tokens = len(embeddings)
        self.replaced = _replaced(model, config) if family[2].startswith("gemma4") else {}
        """Tokens that are computed as if they were others."""
        require(embeddings.dtype in (torch.float32, torch.bfloat16), f"embeddings in {embeddings.dtype}")
        both = getattr(config, "use_bidirectional_attention", None) or "vision"  # which text is none of
        require(both == "vision", "attention in both directions")
        require(getattr(config, "clip_qkv", None) is None, "queries, keys and values within bounds")
        known, grown = growth(config) if family[2] in _GROWING else (0, 0.0)
        embedding_scale, branch_scale, logit_scale = _scales(family[2], config, embeddings.dtype)
        self.decoder = Decoder(
            layers=ctypes.cast(self._made, POINTER),
            embeddings=self._address(embeddings),
            norm=self._norm(norm),
            head=self._matrix(whole_of(model.get_output_embeddings())),
            count=len(self.layers),
            hidden=embeddings.shape[1],
            rotary=max(turned),
            embeddings_kind=_KINDS[embeddings.dtype],
            cache_kind=_KINDS.get(self.dtype, -1),
            activation=_activation(_activation_of(getattr(block, "experts", block))),
            experts=max((one.count for one in self._mixtures), default=0),
            chosen=max((one.chosen for one in self._mixtures), default=0),
            expert_inner=max((one.inner for one in self._mixtures), default=0),
            alone=1 + max(n for n, layer in enumerate(self.layers) if not borrows(attention_of(layer))),
            epsilon=epsilon(norm),
            turns=_turns(family[2], first, config),
            turned_first=hasattr(first, "query_layernorm"),
            trace=self.trace,
            known=known,
            query_epsilon=next(map(epsilon, (*of_heads(first), *latent_norms(first).values())), 0.0),
            scaling=first.scaling if first else 1.0,
            growth=grown,
            embedding_scale=embedding_scale,
            branch_scale=branch_scale,
            logit_scale=logit_scale,
            score_cap=config.attn_logit_softcapping or 0.0 if family[2] == "gemma2" else 0.0,
            logit_cap=getattr(config, "final_logit_softcapping", None) or 0.0,
        )
        parts = (part for layer in self.layers for part in (layer, getattr(layer, "experts", layer)))
        other = {_activation(part.act_fn) for part in parts if hasattr(part, "act_fn")} - {self.decoder.activation}
        require(not other, "several activations")
        if hasattr(body, "embed_tokens_per_layer"):
            self._remind(body)
        self._check_sizes(queries=1 + family[2].startswith(("qwen3_5", "qwen3_next")))

    def _check_sizes(self, queries: int) -> None:
        """Unknown where sizes are none that decoder.c takes. `queries` is how many times a head's size they have."""
        inner = {layer.matrices[UP].outputs for layer in self._made} | {one.inner for one in self._mixtures}
        looking = [layer for layer in self._made if layer.heads]
        seen = {size for layer in looking for size in (layer.size, layer.value_size, layer.heads * layer.value_size)}
        given = {layer.matrices[place].inputs for layer in looking for place in (QUERY, KEY)}
        sizes = (
            self.decoder.hidden,
            *inner,
            *seen,
            *given,
            *{layer.matrices[TOKEN_GATE].outputs for layer in self._made},
        )
        same = all(layer.query_size == queries * layer.size for layer in looking)
        require(same, "queries of another size than keys")
        require(all(layer.steady + layer.rotary <= layer.size for layer in looking), "rotary positions beyond a head")
        latent = [layer for layer in looking if layer.matrices[LATENT].weight]
        require(all(layer.steady + layer.rotary == layer.size for layer in latent), "rotary positions of a part")
        require(self.dtype in (torch.float32, torch.bfloat16), f"keys and values in {self.dtype}")
        require(not any(value % _STEP for value in sizes), f"sizes {sizes} that are no multiples of {_STEP}")

    def _layer(self, layer: Any, rows: list[Rows | None], angles: int, config: Any) -> Layer:
        attention, remembering = attention_of(layer), recurrent_of(layer)
        block = perceptron_of(layer)
        matrices = [Matrix() if one is None else self._matrix(one) for one in rows]
        for group in (QUERY, KEY, VALUE, DECAY, LATENT_QUERY, LATENT), (GATE, UP, AMOUNT):
            kinds = {matrices[place].kind for place in group if rows[place]}
            require(len(kinds) <= 1, "layers with one input in several kinds of weights")
        require(not (matrices[AMOUNT].weight and matrices[DOWN].bias), "a bias that counts in part")
        norms = norms_of(layer) | head_norms(attention, matrices) | latent_norms(attention)
        modules = [*norms.values(), *(one.linear for one in rows if one)]
        used = {id(value) for module in modules for value in module.parameters()}
        sinks = getattr(attention, "sinks", None)
        if sinks is not None:
            used.add(id(sinks))
        recurrent = None
        if remembering is not None:
            told, parameters = recurrence(remembering, self.state, self.trace, self._address)
            recurrent = ctypes.addressof(told)
            self.state += floats_of(told)
            self.trace += trace_of(told)
            self._held.append(told)
            used |= {id(value) for value in parameters}
        experts = None
        if hasattr(block, "experts") or hasattr(layer, "router"):
            mixed, parameters = self._mixture(layer, block, "perceived" in norms and bool(rows[UP]))
            experts = ctypes.addressof(mixed)
            used |= {id(value) for value in parameters}
            self._mixtures.append(mixed)
        self._known |= used
        scale = getattr(layer, "layer_scalar", None)
        require(scale is None or "perceived" in norms, "a factor of a layer without norms of what it adds")
        made = Layer(
            matrices=(Matrix * MATRICES)(*matrices),
            recurrent=recurrent,
            experts=experts,
            angles=angles,
            beside=getattr(layer, "beside", False),
            scale=1.0 if scale is None else float(scale),
            **{name: self._norm(module) for name, module in norms.items()},
        )
        if attention is not None:
            self._attend(made, attention, config)
        return made

    def _mixture(self, layer: Any, block: Any, beside: bool) -> tuple[Mixture, list[Any]]:
        """`beside`: there is a perceptron too, before a norm."""
        if not hasattr(block, "experts"):
            require(beside and hasattr(layer, "post_feedforward_layernorm_1"), "experts that are added otherwise")
            router = self._matrix(whole_of(layer.router.proj))
            return apart(layer, router, self.dtype, self._weights, self._norm, self._address)
        require(not beside, "experts and a shared one before a norm")
        linear = getattr(either(block, "gate", "router"), "wg", None)
        scored = None if linear is None else self._matrix(whole_of(linear))
        return mixture(block, scored, self.dtype, self._weights, self._address)

    def _remind(self, body: Any) -> None:
        """Fills in what is told of the embeddings that tokens have for each layer."""
        table, projection = body.embed_tokens_per_layer, self._made[0].matrices[TOKEN]
        weight, norm, part = table.weight, body.per_layer_projection_norm, body.per_layer_input_scale
        size = norm.weight.numel()
        require(weight.dtype in (torch.float32, torch.bfloat16), f"embeddings in {weight.dtype}")
        fits = weight.shape[1] == projection.outputs >= len(self.layers) * size
        require(fits and not projection.bias, "embeddings of layers that are projected otherwise")
        gates = {layer.matrices[TOKEN_GATE].outputs for layer in self._made}
        require(gates == {size}, "embeddings of layers that are gated otherwise")
        ones = norm(torch.ones(1, size))[0].float() * (1 + epsilon(norm)) ** 0.5
        self.tokens = min(self.tokens, len(weight))
        self.decoder.token_embeddings = self._address(weight)
        self.decoder.token_kind = _KINDS[weight.dtype]
        self.decoder.token_norm = self._address(ones * part)
        self.decoder.token_scale = float(table.embed_scale.to(weight.dtype)) * part
        # what is projected is scaled before its norm, which only makes the epsilon count for less
        self.decoder.token_epsilon = epsilon(norm) / body.per_layer_model_projection_scale**2

    def _attend(self, made: Layer, attention: Any, config: Any) -> None:
        """Fills in the numbers of a layer's attention."""
        query, key, value, out = made.matrices[:4]
        made.size, made.value_size, made.steady = widths_of(attention)
        made.heads = out.inputs // made.value_size
        made.query_size = query.outputs // made.heads
        made.window = _window(attention, config) or 0
        if getattr(attention, "sinks", None) is not None:
            made.sinks = self._address(attention.sinks.float())
        norm = getattr(attention, "v_norm", None)
        if norm is not None:
            made.value_norm = self._norm(norm, made.size)
            require(epsilon(norm) == epsilon(attention.k_norm), "norms of values and of keys with another epsilon")
        place = max((one.end for one in self.kept), default=0)
        if borrows(attention):
            require(attention.layer_type in self._lent, "shared keys of no layer before")
            kept = self._lent[attention.layer_type]
            require(kept.size == made.size and not key.weight and not value.weight, "shared keys of another size")
        elif is_latent(attention):
            made.key_heads = made.heads
            kept = Kept(place, made.heads, made.size, made.value_size)
            self._check_latents(made, attention)
        else:
            require(bool(value.weight) or bool(made.value_norm), "values that are keys, and have no norm")
            kept = Kept(place, key.outputs // made.size, made.size, made.value_size)
        if getattr(attention, "store_full_length_kv", False):
            self._lent[attention.layer_type] = kept
        made.place, made.key_heads = kept.place, kept.heads
        require(made.heads % made.key_heads == 0, "heads that share keys unequally")
        self.kept.append(kept)

    def _check_latents(self, made: Layer, attention: Any) -> None:
        query, key, latent = (made.matrices[place] for place in (QUERY, KEY, LATENT))
        turning = made.size - made.steady
        fits = latent.outputs == key.inputs + turning and query.outputs == made.heads * made.size
        require(fits and key.outputs == made.heads * (made.steady + made.value_size), "latents of other sizes")
        require(len({epsilon(norm) for norm in latent_norms(attention).values()}) == 1, "latents with several norms")

    def _matrix(self, rows: Rows) -> Matrix:
        linear, part = rows.linear, rows.part
        require(type(linear) in (torch.nn.Linear, Int8Linear), f"linear layers of the kind {type(linear).__name__}")
        made = self._weights((linear.packed if isinstance(linear, Int8Linear) else linear.weight)[part])
        made.factor = rows.factor
        if isinstance(linear, Int8Linear):
            made.scale = self._address(linear.scales[part].float())
        if linear.bias is not None:
            made.bias = self._address(linear.bias[part].float())
        return made

    def _weights(self, weight: torch.Tensor) -> Matrix:
        require(type(weight) in (torch.Tensor, torch.nn.Parameter), f"weights of the kind {type(weight).__name__}")
        require(weight.dtype in _KINDS, f"weights in {weight.dtype}")
        require(self.dtype != torch.float32 or weight.dtype == torch.float32, _COARSE.format(weight.dtype))
        require(weight.is_contiguous() and weight.device.type == "cpu", "weights that are not in one piece in memory")
        outputs, inputs = weight.shape
        return Matrix(weight=self._address(weight), inputs=inputs, outputs=outputs, kind=_KINDS[weight.dtype])

    def _norm(self, module: Any, count: int = 0) -> int:
        """The factors of an RMS norm, as its own code applies them: what it makes of ones. Without weights it does not
        tell of how many numbers it is."""
        count = count or module.weight.numel()
        ones = module(torch.ones(1, count))[0].float() * (1 + epsilon(module)) ** 0.5
        return self._address(ones.contiguous())

    def _address(self, tensor: torch.Tensor) -> int:
        held = tensor.detach()
        self._held.append(held)
        return held.data_ptr()


@functools.cache
def _functions() -> tuple[Any, ...]:
    """In the order of decoder.c's activations."""
    return F.silu, F.gelu, functools.partial(F.gelu, approximate="tanh"), lambda x: F.relu(x).square()


def _activation_of(perceptron: Any) -> Any:
    """The function of its gate, or of what it has in its place; any where there is no perceptron."""
    if perceptron is None or hasattr(perceptron, "alpha"):
        return F.silu
    return F.silu if hasattr(perceptron, "w1") else either(perceptron, "act_fn", "activation_fn", "activation")


def _activation(function: Any) -> int:
    points = torch.linspace(-8, 8, 257)
    given = function(points)
    for number, known in enumerate(_functions()):
        if torch.allclose(given, known(points), rtol=1e-5, atol=1e-6):
            return number
    raise Unknown(f"the activation {type(function).__name__}")


def _window(attention: Any, config: Any) -> int | None:
    """Tokens that a layer sees; None for all."""
    if not getattr(attention, "is_sliding", True):
        return None
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window  # type: ignore[no-any-return]
    require(config.model_type != "nemotron_h" or config.sliding_window is None, "a window that its own code ignores")
    window: int | None = (
        getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    )
    require(window is None or not hasattr(config, "max_window_layers"), "windows in some layers that it does not name")
    return window


def _turns(family: str, attention: Any, config: Any) -> int:
    """Which numbers of a head turn together by rotary positions, as in model.h."""
    if is_latent(attention) and getattr(config, "rope_interleave", False):
        return 2
    return int(family in _NEIGHBOURS)


def _replaced(model: Any, config: Any) -> dict[int, int]:
    """Tokens in whose place a model that also sees and hears computes its padding, where text has them."""
    named = (getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video", "audio"))
    return {token: config.pad_token_id for token in named if token is not None}


def _scales(family: str, config: Any, dtype: torch.dtype) -> tuple[float, float, float]:
    """Of embeddings, of what a branch adds, of logits."""
    if family.startswith("granite"):
        return config.embedding_multiplier, config.residual_multiplier, 1 / config.logits_scaling
    if family.startswith("gemma"):
        return float(torch.tensor(config.hidden_size**0.5, dtype=dtype)), 1.0, 1.0
    if family == "falcon_h1":
        return config.embedding_multiplier, 1.0, config.lm_head_multiplier
    return 1.0, 1.0, 1.0
