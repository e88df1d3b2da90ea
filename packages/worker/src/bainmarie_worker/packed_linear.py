"""Linear layers whose weights are held in 8 or 4 bits on the CPU, computed by torch's own kernels.

Weight-only: what goes in and out keeps its dtype. Measured for one row of 2048 x 2048 (two cores, bf16 in): F.linear
1.95 ms, oneDNN with prepacked bf16 weights 1.40, `_weight_int8pack_mm` 1.04, `_weight_int4pack_mm_for_cpu` 0.45;
torchao's int8 takes 1.84. Kernels that quantize the input too are not used: they answer differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_FEW_ROWS = 16
"""Up to so many rows the int8 kernel is faster than a matrix product with the weights made 16-bit on the way."""
GROUP = 32
"""Neighbouring weights that share one scale in int4."""


class PackedLinear(torch.nn.Linear):
    """`weight` has shape, type and device alone, no values: models' own code asks it which type it computes in."""

    packed: torch.Tensor

    def __init__(self, linear: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        shape = (self.out_features, self.in_features)
        self.weight = torch.nn.Parameter(linear.weight.new_zeros(1, 1).expand(shape), requires_grad=False)
        self.bias = linear.bias


class Int8Linear(PackedLinear):
    """packed: int8 (out, in); one scale for each output. `in` must be a multiple of 16: the kernel reads beyond."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach()
        scales = weight.float().abs().amax(1).clamp(min=1e-12) / 127
        whole = (weight.float() / scales[:, None]).round().to(torch.int8)
        self.register_buffer("packed", whole)
        self.register_buffer("scales", scales.to(weight.dtype))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As nn.Linear."""
        rows = input.reshape(-1, self.in_features).contiguous()
        scales: Any = self.scales
        if rows.shape[0] <= _FEW_ROWS:
            output = torch._weight_int8pack_mm(rows, self.packed, scales)
        else:
            output = torch.mm(rows, self.packed.to(rows.dtype).t()) * scales
        output = output.reshape(*input.shape[:-1], self.out_features)
        return output if self.bias is None else output + self.bias

    @staticmethod
    def fits(linear: torch.nn.Linear) -> bool:
        """Whether the kernel can compute such a layer."""
        return linear.in_features % 16 == 0


class Int4Linear(PackedLinear):
    """packed: 4 bits, packed by torch for this processor; scale and zero point for each `group` inputs of an output."""

    def __init__(self, linear: torch.nn.Linear, scales: torch.Tensor | None = None) -> None:
        """With `scales` [outputs, groups] the weights are multiples of them already, by -8 to 7, and stay so."""
        super().__init__(linear)
        weight = linear.weight.detach().float()
        if scales is None:
            groups = weight.reshape(self.out_features, -1, GROUP)
            low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
            scales = (high - low).clamp(min=1e-12) / 15
        else:
            groups = weight.reshape(*scales.shape, -1)
            scales = scales.float().clamp(min=1e-12)[..., None]
            low = -8 * scales
        self.group = groups.shape[-1]
        whole = ((groups - low) / scales).round().clamp(0, 15).to(torch.int32).reshape(self.out_features, -1)
        both = torch.cat([scales, low + 8 * scales], -1)  # the kernel computes (weight - 8) * scale + zero point
        self.register_buffer("packed", torch._convert_weight_to_int4pack_for_cpu(whole, 1))
        self.register_buffer("scales_and_zeros", both.transpose(0, 1).contiguous().to(linear.weight.dtype))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As nn.Linear."""
        rows = input.reshape(-1, self.in_features).contiguous()
        scales_and_zeros: Any = self.scales_and_zeros
        output = torch._weight_int4pack_mm_for_cpu(rows, self.packed, self.group, scales_and_zeros)
        output = output.reshape(*input.shape[:-1], self.out_features)
        return output if self.bias is None else output + self.bias

    @staticmethod
    def fits(linear: torch.nn.Linear, group: int = GROUP) -> bool:
        """Whether the kernel can compute such a layer."""
        return linear.in_features % group == 0 and linear.out_features % 16 == 0


def pack(model: Any, bits: int, told: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Puts packed layers in the place of the model's linear ones, one after the other; how many parameters they hold.

    The output layer decides over tokens and is held in 8 bits at least. A weight that is tied to the embeddings stays
    there too; layers that no kernel fits stay as they are. `told` hears how many layers of all are done.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    count = 0
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) is torch.nn.Linear]
    for place, (name, layer) in enumerate(layers, 1):
        told(place, len(layers))
        kind = Int8Linear if bits == 8 or layer is head or not Int4Linear.fits(layer) else Int4Linear
        if not kind.fits(layer):
            continue
        count += layer.weight.numel()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, kind(layer))
    return count
