"""Proves on two short texts that a way of computing a model gives what the model's own forward pass gives.

A model is served by its own code, in a use that its authors may not have thought of: several texts in one row, or one
text in two passes. Whether that works is not looked up by the model's name, it is tried: on the first layers, as many
as it takes to have one of each kind, so that a large model is not computed several times before it may answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bainmarie_worker.engine.memory import Forward, Part

Reference = list[torch.Tensor]

_TEXTS = ([5, 3, 7, 3, 11, 2, 9, 4, 4, 10, 3, 8, 6, 2, 12, 5, 3, 7, 9, 13], [4, 8, 3])
_VOCABULARY = 1024
"""Logits that are compared in a shortened model."""
_CUT = 14
"""The first text is computed in two passes, of so many tokens and of the rest."""
_NEAR = {torch.float32: 1e-3, torch.float64: 1e-6}
_NEAR_ELSE = 0.1
"""How far logits may be from the model's own, as a part of their spread: half precision rounds."""


@torch.inference_mode()
def reference(model: Any, device: torch.device) -> Reference:
    """What the model itself computes: the logits after each text."""
    return [model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, -1] for ids in _TEXTS]


@torch.inference_mode()
def fault(forward: Forward, wanted: Reference, dtype: torch.dtype) -> str:
    """What is wrong with a way; empty where nothing is."""
    long, short = forward.memory(), forward.memory()
    whole = len(_TEXTS[0])
    first = forward.run([Part(long, _TEXTS[0][:_CUT], 0, reach=whole)])
    rows = forward.run([Part(short, _TEXTS[1], 1), Part(long, _TEXTS[0][_CUT:], 1, reach=whole)])
    for result in (*first, *rows):
        if isinstance(result, Exception):
            return f"its code fails: {type(result).__name__}: {result}"
    far = max(_distance(row, own) for row, own in zip(reversed(rows), wanted))
    if not far <= _NEAR.get(dtype, _NEAR_ELSE):
        return f"it computes something else (by {far:.2g} of the spread)"
    return ""


@contextmanager
def shortened(model: Any) -> Iterator[bool]:
    """Inside, the model has only its first layers, one of each kind among them, and the first rows of its output layer.
    False where that cannot be done."""
    config: Any = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = getattr(text, "num_hidden_layers", None)
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(found) != 1:
        yield False
        return
    parent, name, layers = found[0]
    named = getattr(text, "layer_types", None) or [""] * len(layers)
    kinds = [(kind, *(type(part) for part in layer.modules())) for kind, layer in zip(named, layers)]
    last = max(kinds.index(kind) for kind in set(kinds))
    if last + 1 == len(layers):
        yield False
        return
    with _exchanged(parent, name, nn.ModuleList(list(layers)[: last + 1])), _smaller_head(model):
        yield True


@contextmanager
def _smaller_head(model: nn.Module) -> Iterator[None]:
    """Inside, a plain output layer has only its first rows: all of them take longer than the layers that are tried."""
    head: Any = getattr(model, "lm_head", None)
    if type(head) is not nn.Linear or head.bias is not None:
        yield
        return
    rows = head.weight.detach()[:_VOCABULARY]
    part = nn.Linear(head.in_features, len(rows), bias=False, device="meta")
    part.weight = nn.Parameter(rows, requires_grad=False)
    with _exchanged(model, "lm_head", part):
        yield


@contextmanager
def _exchanged(parent: nn.Module, name: str, other: nn.Module) -> Iterator[None]:
    own = getattr(parent, name)
    setattr(parent, name, other)
    try:
        yield
    finally:
        setattr(parent, name, own)


def _distance(rows: Any, own: torch.Tensor) -> float:
    """Of one row of logits from the model's own."""
    own = own.float()
    return float((rows[0].float() - own).norm() / (own - own.mean()).norm())
