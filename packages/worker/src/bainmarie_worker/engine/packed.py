"""The fast way through a transformers model: the tokens of all sequences as one row, without padding.

Linear layers, norms and experts do not care which sequence a token belongs to; positions are given; attention and the
cache's update are ours (attention.py). So every model that goes through transformers' attention interface is served
by its own code, in batches, with memories that can be cut and copied at any token.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from bainmarie_worker.engine import probe, rotary
from bainmarie_worker.engine.attention import NAME, PackedCache, Pass, Span, Spans, packed_attention, under_way
from bainmarie_worker.engine.growth import NONE, Growth
from bainmarie_worker.engine.keys_values import KeysValues
from bainmarie_worker.engine.memory import Computed, Logits, Part
from bainmarie_worker.engine.rotary import growth_of

_LAYERS = {"full_attention", "sliding_attention"}
"""Which tokens a layer looks at, in transformers' words: those that `packed_attention` knows. Whether others come to
the same may depend on more tokens than a short text has."""

_BORROWS = "DummyLayer"
"""A layer that looks at the keys and values of one before it; its attention is given the new ones, as any other's."""
_KEEPS = {"DynamicLayer", "DynamicSlidingWindowLayer", _BORROWS}


class Packed:
    """Implements `Forward`. Made by `packed`, which proves first that it computes what the model computes."""

    path = "packed"
    packs = True
    crops = True
    guesses = True

    def __init__(self, model: Any, device: torch.device, why: str, growth: Growth = NONE) -> None:
        self.why = why
        self.growth = growth
        self._model = model
        self._device = device
        known = inspect.signature(model.forward).parameters
        self._keep = next((name for name in ("logits_to_keep", "num_logits_to_keep") if name in known), None)
        self._cache = PackedCache()

    def memory(self) -> KeysValues:
        return KeysValues()

    def run(self, parts: list[Part]) -> list[Computed]:
        try:
            return list(self._pass(parts))
        except Exception as error:  # noqa: BLE001 - handed to the sequences; no memory has moved on
            return [error] * len(parts)

    def free(self) -> None:
        """Nothing is kept."""

    def _pass(self, parts: list[Part]) -> list[Logits]:
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        spans = []
        for part in parts:
            start, held = len(tokens), part.memory.length
            tokens += part.tokens
            positions += range(held, held + len(part.tokens))
            wanted += range(len(tokens) - part.wanted, len(tokens))
            spans.append(Span(part.memory, start, len(tokens)))
            part.memory.reserve(held + len(part.tokens))
        here = {"device": self._device}
        with rotary.under_way(self.growth, parts):
            logits = self.logits(
                Spans(spans),
                torch.tensor(tokens, **here),
                torch.tensor(positions, **here),
                torch.tensor(wanted or [0], **here),
            )
        for part in parts:
            part.memory.length += len(part.tokens)
        return list(logits[: len(wanted)].split([part.wanted for part in parts]))

    def logits(
        self, work: Pass, tokens: torch.Tensor, positions: torch.Tensor, places: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[places, vocabulary] of one pass over tokens at these positions; without `places` after all of them."""
        keep = {self._keep: places} if self._keep and places is not None else {}
        with under_way(work):
            output = self._model(
                input_ids=tokens[None],
                position_ids=positions[None],
                past_key_values=self._cache,
                use_cache=True,
                **keep,
            )
        logits: torch.Tensor = output.logits[0]
        return logits if keep or places is None else logits[places]


def packed(model: Any, device: torch.device, reference: probe.Reference, why: str = "") -> Packed | str:
    """The fast way, or why this model cannot go it. The model's attention is changed only in the first case.

    `reference` is what the model computed with its own attention; `why` it does not go a faster way.
    """
    unfit, growth = _unfit(model), growth_of(model)
    if unfit or isinstance(growth, str):
        return unfit or str(growth)
    from transformers import AttentionInterface

    before = model.config._attn_implementation
    windows: dict[int, int | None] = {}

    def watched(module: Any, *args: Any, **kwargs: Any) -> Any:
        windows[module.layer_idx] = kwargs.get("sliding_window")
        return packed_attention(module, *args, **kwargs)

    AttentionInterface.register(NAME, watched)
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        return f"its attention cannot be replaced: {error}"
    forward = Packed(model, device, why, growth)
    fault = probe.fault(forward, reference, model.dtype) or _hidden_window(model, windows)
    AttentionInterface.register(NAME, packed_attention)
    if fault:
        model.set_attn_implementation(before)
        return f"packed {fault}"
    return forward


def _hidden_window(model: Any, told: dict[int, int | None]) -> str:
    """What is wrong where a layer's window is not the one that its attention is told of, by layer: the short texts of
    the probe do not reach beyond a window. Some models' code keeps it to the mask, which is not looked at here."""
    import transformers

    layers = transformers.DynamicCache(config=model.config).layers
    text = model.config.get_text_config()
    for number, window in told.items():
        own = _window(layers[number], text, number) if number < len(layers) else window
        if own != window:
            return f"its attention is told of the window {window}, and layer {number} has {own}"
    return ""


def _window(layer: Any, text: Any, number: int) -> int | None:
    """Of one of transformers' layers of a cache; what the configuration says where it looks at what another keeps."""
    if type(layer).__name__ != _BORROWS:
        return getattr(layer, "sliding_window", None)
    return text.sliding_window if text.layer_types[number] == "sliding_attention" else None


def _unfit(model: Any) -> str:
    """What is known to be wrong before anything is computed."""
    import transformers

    if not hasattr(transformers, "AttentionInterface") or not hasattr(model, "set_attn_implementation"):
        return f"transformers {transformers.__version__} lets nobody replace attention"
    if getattr(model, "_is_stateful", False):
        return "it has a recurrent state"
    if not {"past_key_values", "position_ids"} <= inspect.signature(model.forward).parameters.keys():
        return "its forward pass takes no cache or no positions"
    try:
        layers = transformers.DynamicCache(config=model.config).layers
    except (TypeError, AttributeError):
        return f"transformers {transformers.__version__} does not say what its layers remember"
    kinds = {type(layer).__name__ for layer in layers} - _KEEPS
    if kinds:
        return f"it remembers in layers of its own kind: {', '.join(sorted(kinds))}"
    text = model.config.get_text_config()
    other = set(getattr(text, "layer_types", None) or ()) - _LAYERS
    if other:
        return f"its layers look at other tokens than all before them or a window: {', '.join(sorted(other))}"
    return ""
