"""Several LoRA adapters in one pass: each row gets the change of its own adapter, and no other.

peft loads adapters and puts its layers around the base's; here only their `forward` is exchanged, for one that knows
which rows of a packed pass belong to which adapter. What is no plain LoRA keeps peft's own forward: then a pass holds
sequences of one adapter only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

_Weights = tuple[torch.Tensor, torch.Tensor]
"""A transposed [inputs, rank], B transposed and scaled [rank, outputs]: the change of x is (x A) B."""
Weights = Mapping[Any, tuple[torch.Tensor, torch.Tensor]]
"""By the base's linear layer: A [rank, inputs], B scaled [outputs, rank] in float32."""
_FEW_ROWS = 16
"""Up to so many rows a processor computes a change faster in float32, whatever the base's dtype: a product with a
small bf16 matrix takes 25-40 microseconds before it multiplies anything, in float32 2 (torch 2.13, one core)."""


Span = tuple[str, int, int]
"""(adapter by peft's name, first row, row after the last)."""


@dataclass
class Routing:
    """Which rows of the pass that is under way belong to which adapter, by peft's name of it."""

    rows: int = 0
    spans: list[Span] = field(default_factory=list)
    """Rows in no span are the base's."""
    wanted: int = 0
    wanted_spans: list[Span] = field(default_factory=list)
    """The same of those rows alone whose logits are wanted: the output layer may get no others."""

    def assign(self, groups: list[tuple[str | None, int, int]]) -> None:
        """(adapter, its rows of the next pass, its wanted ones), in their order."""
        self.spans, self.rows = _spans([(name, rows) for name, rows, _ in groups])
        self.wanted_spans, self.wanted = _spans([(name, wanted) for name, _, wanted in groups])

    def of_rows(self, rows: int, head: bool) -> list[Span]:
        """The spans of what a layer gets. RuntimeError where these are other rows."""
        if rows == self.rows:
            return self.spans
        if head and rows == max(1, self.wanted):  # where none is wanted, it computes one for nobody
            return self.wanted_spans
        raise RuntimeError(f"a layer with an adapter has {rows} rows, the pass {self.rows}")


def _spans(counts: list[tuple[str | None, int]]) -> tuple[list[Span], int]:
    """Those of rows one after the other, and how many rows these are."""
    spans, row = [], 0
    for name, rows in counts:
        if name is not None and rows:
            spans.append((name, row, row + rows))
        row += rows
    return spans, row


def route(model: Any, routing: Routing) -> bool:
    """Exchanges the forward of all of peft's layers in `model`. False, and nothing is exchanged, where one is no plain
    LoRA on a linear layer, or an adapter brings whole layers of its own."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for _, layer in layers:
        layer.__dict__.pop("forward", None)
    if _brings_layers(model) or not all(_is_plain(name, layer) for name, layer in layers):
        return False
    head = model.get_output_embeddings()
    for _, layer in layers:
        layer.forward = _Routed(layer, routing, layer is head)
    return True


def weights_of(model: Any, adapter: str) -> Weights:
    """Of an adapter by peft's name, where `route` has found all to be plain LoRA."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and adapter in module.lora_A]
    return {
        layer.get_base_layer(): (
            layer.lora_A[adapter].weight.detach(),
            layer.lora_B[adapter].weight.detach().float() * layer.scaling[adapter],
        )
        for layer in layers
    }


def _brings_layers(model: Any) -> bool:
    """Whether an adapter replaces whole layers (`modules_to_save`): only peft exchanges those."""
    wrappers = [module for module in model.modules() if type(module).__name__ == "ModulesToSaveWrapper"]
    return any(len(wrapper.modules_to_save) for wrapper in wrappers)


def _is_plain(name: str, layer: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    base = layer.get_base_layer()
    return (
        isinstance(layer, LoraLayer)
        and ".experts." not in name
        and hasattr(base, "in_features")
        and not getattr(layer, "lora_variant", None)
        and not any(getattr(layer, "use_dora", {}).values())
        and not any(getattr(layer, "lora_bias", {}).values())
        and not layer.lora_embedding_A
        and not layer.merged
    )


class _Routed:
    """The forward of one layer."""

    def __init__(self, layer: Any, routing: Routing, head: bool) -> None:
        self._layer = layer
        self._head = head
        self._routing = routing
        self._weights: dict[tuple[str, torch.dtype], _Weights | None] = {}

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = self._layer.base_layer(x, *args, **kwargs)
        if not self._routing.spans:
            return result
        rows, changed = x.reshape(-1, x.shape[-1]), result.reshape(-1, result.shape[-1])
        for name, start, end in self._routing.of_rows(len(rows), self._head):
            few = end - start <= _FEW_ROWS and x.device.type == "cpu"
            weights = self._of(name, torch.float32 if few else result.dtype)
            if weights is not None:
                down, up = weights
                changed[start:end] += rows[start:end].to(down.dtype) @ down @ up
        return changed.view(result.shape)

    def _of(self, name: str, dtype: torch.dtype) -> _Weights | None:
        """This layer's weights of an adapter; None where the adapter does not change this layer."""
        key = (name, dtype)
        if key not in self._weights:
            self._weights[key] = self._made(name, dtype) if name in self._layer.lora_A else None
        return self._weights[key]

    def _made(self, name: str, dtype: torch.dtype) -> _Weights:
        down, up = self._layer.lora_A[name].weight.detach(), self._layer.lora_B[name].weight.detach()
        return down.to(dtype).t(), (up.float() * self._layer.scaling[name]).to(dtype).t()
