"""Weights of the base that an adapter's file brings along: peft saves them beside a change of embeddings or the output
layer, and when it loads them it writes them over the base's own, for the base and for all its adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bainmarie_worker import files
from bainmarie_worker.errors import LoadError

_PREFIX = "base_model.model."
_CHANGED = ".base_layer.weight"
_REPLACED = ".original_module.weight"
_FAR = 0.02
"""How far such weights may be from the base's own, as a part of them: they were rounded to another dtype."""


@contextlib.contextmanager
def base_kept(path: str, tensors: list[files.Tensor], model: Any) -> Iterator[None]:
    """Inside, peft may load the adapter; on return the base's own weights are what they were.

    LoadError `adapter_mismatch` where the adapter changes a layer with other weights than the base's.
    """
    held: list[tuple[str, Any, Any]] = []
    try:
        held.extend(_stand_ins(tensors, model))
        yield
        for name, layer, own in held:
            if name.endswith(_CHANGED) and _has_values(layer) and _far(layer.weight, own):
                raise LoadError(
                    "adapter_mismatch",
                    f"the adapter {path} brings {name} along, which is not what its base has: it would "
                    "answer otherwise",
                    "Set `model:` to the base that it was trained on, or merge it into that and serve the result.",
                )
    finally:
        for _, layer, own in reversed(held):
            layer.weight = own


def _stand_ins(tensors: list[files.Tensor], model: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name of the tensor, the base's layer, its own weight), where that now has another one in its place."""
    import torch

    for tensor in tensors:
        ending = next((one for one in (_CHANGED, _REPLACED) if tensor.name.endswith(one)), None)
        if ending is None:
            continue
        name = tensor.name[: -len(ending)]
        try:
            layer = model.get_submodule(name[len(_PREFIX) :] if name.startswith(_PREFIX) else name)
        except AttributeError:
            continue
        layer = getattr(layer, "base_layer", getattr(layer, "original_module", layer))
        own: Any = getattr(layer, "weight", None)
        if type(own) is not torch.nn.Parameter or own.device.type == "meta":
            continue
        if _has_values(layer):
            stand_in = own.detach().clone()
        else:
            dtype = own.dtype if own.is_floating_point() else torch.bfloat16
            stand_in = torch.zeros(tensor.shape, dtype=dtype, device=own.device)
        layer.weight = torch.nn.Parameter(stand_in, requires_grad=False)
        yield tensor.name, layer, own


def _has_values(layer: Any) -> bool:
    """Not those that are laid out otherwise, whose `weight` only tells their shape and type."""
    return bool(layer.weight.is_floating_point()) and not hasattr(layer, "packed")


def _far(brought: Any, own: Any) -> bool:
    return bool((brought.float() - own.float()).norm() > _FAR * own.float().norm())
