"""Linear layers in the processor's layout compute what they computed before, and only those that gain by it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bainmarie_worker.engine.linears import PrepackedLinear, Prepacking
from bainmarie_worker.packed_linear import Int8Linear


def model() -> nn.ModuleDict:
    torch.manual_seed(3)
    return nn.ModuleDict(
        {
            "plain": nn.Linear(512, 768, bias=False, dtype=torch.bfloat16),
            "biased": nn.Linear(768, 512, dtype=torch.bfloat16),
            "small": nn.Linear(64, 64, dtype=torch.bfloat16),
            "exact": nn.Linear(512, 768),
            "int8": Int8Linear(nn.Linear(512, 768, dtype=torch.bfloat16)),
        }
    )


@torch.inference_mode()
def prepacked() -> nn.ModuleDict:
    layers = model()
    steps, work = 0, Prepacking(layers)
    while work.step():
        steps += 1
    if not steps:
        pytest.skip("this build of torch has no kernels with a layout of their own")
    assert steps == 2
    return layers


def test_one_step_replaces_one_layer_and_leaves_those_that_do_not_gain():
    kinds = {name: type(layer) for name, layer in prepacked().items()}
    assert kinds == {
        "plain": PrepackedLinear,
        "biased": PrepackedLinear,
        "small": nn.Linear,
        "exact": nn.Linear,
        "int8": Int8Linear,
    }


@pytest.mark.parametrize("name", ["plain", "biased"])
@pytest.mark.parametrize("rows", [1, 5, 40])
@torch.inference_mode()
def test_it_computes_the_same(name, rows):
    before, after = model()[name], prepacked()[name]
    x = torch.randn(1, rows, before.in_features, dtype=torch.bfloat16)
    torch.testing.assert_close(after(x), before(x), atol=0.02, rtol=0.02)
    assert (after.weight.shape, after.weight.dtype) == (before.weight.shape, before.weight.dtype)
    assert after.weight.untyped_storage().nbytes() < 16  # the values are not held twice
