"""A model as decoder.c sees it: where its weights lie, and the numbers that its own code was made with.

Known are the families whose code was read: each layer norm -> attention -> sum, norm -> gated perceptron -> sum. What a
member of a family has beyond that (a further parameter, another norm) makes it unknown, and what cannot be seen from
outside is tried (probe.py).
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch.nn import functional as F

from bainmarie_worker.engine.lora import Weights
from bainmarie_worker.packed_linear import Int8Linear

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
MATRICES = (
    ("self_attn", "q_proj"),
    ("self_attn", "k_proj"),
    ("self_attn", "v_proj"),
    ("self_attn", "o_proj"),
    ("mlp", "gate_proj"),
    ("mlp", "up_proj"),
    ("mlp", "down_proj"),
)
_STEP = 32
"""Sizes are multiples of it: two vectors of the widest kind."""
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_pointer, _whole, _real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Matrix(ctypes.Structure):
    _fields_ = (
        *((name, _pointer) for name in ("weight", "scale", "bias")),
        *((name, _whole) for name in ("inputs", "outputs", "kind")),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        ("matrices", Matrix * len(MATRICES)),
        *((name, _pointer) for name in ("before", "after", "query_norm", "key_norm")),
        ("window", _whole),
    )


class Decoder(ctypes.Structure):
    _fields_ = (
        *((name, _pointer) for name in ("layers", "embeddings", "norm")),
        ("head", Matrix),
        *((name, _whole) for name in ("count", "hidden", "inner", "heads", "key_heads", "size", "rotary")),
        *((name, _whole) for name in ("embeddings_kind", "cache_kind", "activation")),
        *((name, _real) for name in ("epsilon", "query_epsilon", "scaling", "padding")),
    )


class Unknown(Exception):
    """What of a model decoder.c does not know, in words."""


class Structure:
    """`decoder` is what decoder.c reads; the tensors behind its pointers are held as long as this lives."""

    def __init__(self, model: Any) -> None:
        """Unknown where the model is of another kind."""
        self._held: list[torch.Tensor] = []
        family = type(model).__module__.split(".")
        if family[:2] != ["transformers", "models"] or family[2] not in FAMILIES:
            raise Unknown(f"{type(model).__name__} is not among the known kinds: {', '.join(FAMILIES)}")
        body = model.model
        self.layers = list(body.layers)
        self.linears = [
            [_base(getattr(getattr(layer, part), name)) for part, name in MATRICES] for layer in self.layers
        ]
        self.dtype: torch.dtype = model.dtype
        self.rotary: Any = body.rotary_emb
        self.vocabulary = int(model.get_output_embeddings().out_features)
        """Logits of a row."""
        first = self.layers[0].self_attn
        size = int(first.head_dim)
        made = [self._layer(*pair, model.config) for pair in zip(self.layers, self.linears)]
        self._made = (Layer * len(made))(*made)
        embeddings = model.get_input_embeddings().weight
        self.tokens = len(embeddings)
        _require(embeddings.dtype in (torch.float32, torch.bfloat16), f"embeddings in {embeddings.dtype}")
        matrices = self._made[0].matrices
        self.decoder = Decoder(
            layers=ctypes.cast(self._made, _pointer),
            embeddings=self._address(embeddings),
            norm=self._norm(body.norm),
            head=self._matrix(_base(model.get_output_embeddings())),
            count=len(self.layers),
            hidden=matrices[0].inputs,
            inner=matrices[4].outputs,
            heads=matrices[0].outputs // size,
            key_heads=matrices[1].outputs // size,
            size=size,
            rotary=self.rotary(torch.zeros(1), torch.zeros(1, 1, dtype=torch.long))[0].shape[-1],
            embeddings_kind=_KINDS[embeddings.dtype],
            cache_kind=_KINDS.get(self.dtype, -1),
            activation=_activation(self.layers[0].mlp.act_fn),
            epsilon=body.norm.variance_epsilon,
            query_epsilon=getattr(getattr(first, "q_norm", None), "variance_epsilon", 0.0),
            scaling=first.scaling,
        )
        whole = self.decoder
        sizes = (whole.hidden, whole.inner, whole.size, whole.heads * whole.size)
        _require(self.dtype in (torch.float32, torch.bfloat16), f"keys and values in {self.dtype}")
        _require(not any(value % _STEP for value in sizes), f"sizes {sizes} that are no multiples of {_STEP}")

    def _layer(self, layer: Any, linears: list[Any], config: Any) -> Layer:
        attention = layer.self_attn
        matrices = [self._matrix(linear) for linear in linears]
        for group in (matrices[:3], matrices[4:6]):
            _require(len({one.kind for one in group}) == 1, "layers with one input in several kinds of weights")
        norms = {
            "before": layer.input_layernorm,
            "after": layer.post_attention_layernorm,
            "query_norm": getattr(attention, "q_norm", None),
            "key_norm": getattr(attention, "k_norm", None),
        }
        known = [*linears, *(module for module in norms.values() if module is not None)]
        used = {id(value) for module in known for value in module.parameters()}
        for name, value in layer.named_parameters():
            _require(id(value) in used or ".lora_" in name, f"a layer with {name}")
        return Layer(
            matrices=(Matrix * len(MATRICES))(*matrices),
            window=_window(attention, config) or 0,
            **{name: self._norm(module) for name, module in norms.items() if module is not None},
        )

    def _matrix(self, linear: Any) -> Matrix:
        _require(type(linear) in (torch.nn.Linear, Int8Linear), f"linear layers of the kind {type(linear).__name__}")
        weight = linear.weight
        _require(weight.dtype in _KINDS, f"weights in {weight.dtype}")
        _require(weight.is_contiguous() and weight.device.type == "cpu", "weights that are not in one piece in memory")
        scale = linear.scales.float() if isinstance(linear, Int8Linear) else None
        bias = None if linear.bias is None else linear.bias.detach().float()
        return Matrix(
            weight=self._address(weight),
            scale=None if scale is None else self._address(scale),
            bias=None if bias is None else self._address(bias),
            inputs=linear.in_features,
            outputs=linear.out_features,
            kind=_KINDS[weight.dtype],
        )

    def _norm(self, module: Any) -> int:
        """The factors of an RMS norm, as its own code applies them: what it makes of ones."""
        count = module.weight.numel()
        ones = module(torch.ones(1, count))[0].float() * (1 + module.variance_epsilon) ** 0.5
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
        matrices = [linear for layer in structure.linears for linear in layer]
        _require(not set(weights) - set(matrices), "an adapter of other layers")
        self._made = (Change * len(matrices))(*(self._change(*weights.get(linear, ())) for linear in matrices))
        self.address = ctypes.addressof(self._made)

    def _change(self, down: torch.Tensor | None = None, up: torch.Tensor | None = None) -> Change:
        if down is None or up is None:
            return Change()
        more = -len(down) % _STEP
        padded = F.pad(down.float(), (0, 0, 0, more)).contiguous(), F.pad(up.float(), (0, more)).contiguous()
        self._held += padded
        self.rank = max(self.rank, len(padded[0]))
        return Change(padded[0].data_ptr(), padded[1].data_ptr(), len(padded[0]))


class Angles:
    """Cosines and sines of rotary positions, [positions, rotary] in float32, made by the model's own code."""

    def __init__(self, rotary: Any) -> None:
        self._rotary = rotary
        self.cosines = self.sines = torch.empty(0, 0)

    def reach(self, positions: int) -> None:
        """Makes them for at least so many positions."""
        if positions <= len(self.cosines):
            return
        count = max(512, 1 << (positions - 1).bit_length())
        cosines, sines = self._rotary(torch.zeros(1), torch.arange(count)[None])
        self.cosines, self.sines = cosines[0].contiguous(), sines[0].contiguous()


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


def _window(attention: Any, config: Any) -> int | None:
    """Tokens that a layer sees; None for all."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window  # type: ignore[no-any-return]
    window: int | None = (
        getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    )
    _require(window is None or not hasattr(config, "max_window_layers"), "windows in some layers that it does not name")
    return window


def _linears(layer: Any) -> list[Any]:
    """As in `MATRICES`."""
    return [_base(getattr(getattr(layer, part), name)) for part, name in MATRICES]


def _base(linear: Any) -> Any:
    """The layer itself, whatever peft has put around it."""
    return getattr(linear, "base_layer", linear)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Unknown(what)
