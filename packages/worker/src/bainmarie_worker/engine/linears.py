"""Linear layers with their weights laid out for this processor's kernels, which read them nearly as fast as memory can.

A plain bf16 layer reads at about half that speed for a single row, and pays far more for a few rows than for one. The
new layout is a copy: the mapped file's pages are no longer shared with other workers of the same checkpoint. It is made
layer by layer, between steps and while nobody asks, so that the first answer does not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_DTYPES = (torch.bfloat16,)
"""In float32 a plain layer reads as fast for a single row."""
_SMALLEST = 1 << 18
"""Weights of a layer below which a call costs more than the layout saves."""
_ROWS = 16
"""The number of rows that the layout is made for; others work too."""


class PrepackedLinear(nn.Linear):
    """Computes what the layer it is made of computes. `weight` has shape, type and device alone, no values."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        shape = (self.out_features, self.in_features)
        self.weight = nn.Parameter(linear.weight.new_zeros(1, 1).expand(shape), requires_grad=False)
        self.bias = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")
        return result

    def plain(self) -> nn.Linear:
        """The layer it was made of."""
        made = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(self.packed.to_dense(), requires_grad=False)
        made.bias = self.bias
        return made


def unpack(model: nn.Module) -> None:
    """Puts plain layers in the place of all that were prepacked."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, PrepackedLinear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.plain())


class Prepacking:
    """Goes through a model's layers, one with each `step`."""

    def __init__(self, model: nn.Module) -> None:
        self._left = _replaceable(model) if _available() else iter(())

    def step(self) -> bool:
        """Replaces the next layer. False when all are done, or where this machine has no such kernels."""
        for parent, name, linear in self._left:
            setattr(parent, name, PrepackedLinear(linear))
            return True
        return False


def _replaceable(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(parent, its attribute, layer). Looks for each module anew: adapters may have come between two steps."""
    done: set[int] = set()
    while True:
        found = next(
            (
                (parent, name, child)
                for parent in model.modules()
                for name, child in parent.named_children()
                if id(child) not in done and _fits(child)
            ),
            None,
        )
        if found is None:
            return
        done.add(id(found[2]))
        yield found


def _fits(module: Any) -> bool:
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype in _DTYPES
        and module.weight.numel() >= _SMALLEST
        and not hasattr(module, "_hf_hook")
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _available() -> bool:
    """Whether this build of torch has the kernels and computes with them what it computes without them."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        linear = nn.Linear(128, 128, dtype=torch.bfloat16)
        x = torch.randn(3, 128, dtype=torch.bfloat16)
        near = torch.allclose(PrepackedLinear(linear)(x), linear(x), atol=0.05)
    except RuntimeError:
        return False
    return bool(near)
