"""Linear layers in the processor's layout compute what they computed before, and only those that gain by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.worker.engine.architectures import architecture, make
from tests.worker.engine.driving import CPU, generated, heard
from torch import nn

from bainmarie_worker.engine.linears import PrepackedLinear, Prepacking
from bainmarie_worker.engine.options import EngineOptions
from bainmarie_worker.engine.runner import TransformersRunner
from bainmarie_worker.loading import Loaded
from bainmarie_worker.packed_linear import Int8Linear

SETTINGS = {
    "vocab_size": 2048,
    "hidden_size": 512,
    "intermediate_size": 768,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "eos_token_id": None,
}


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


@pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves
@pytest.mark.parametrize("wish", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=["dora", "whole"])
def test_an_adapter_that_needs_weights_finds_them(tmp_path, wish):
    """Whatever has been prepacked before it comes, and what would be after it."""
    known = replace(architecture("llama"), settings=SETTINGS)
    adapted = get_peft_model(make(known).bfloat16(), LoraConfig(r=4, target_modules=["q_proj"], **wish)).eval()
    for name, weights in adapted.named_parameters():
        if "lora_magnitude" in name or "modules_to_save" in name:
            weights.data *= 1.5
    adapted.save_pretrained(tmp_path)
    loaded = Loaded(make(known).bfloat16(), None, CPU, 256, {}, frozenset(), {})
    runner = TransformersRunner(loaded, EngineOptions(path="packed"), 1 << 28)
    before = type(loaded.model.lm_head)
    while runner.tidy():
        pass
    if type(loaded.model.lm_head) is before:
        pytest.skip("this build of torch has no kernels with a layout of their own")
    runner.load_adapter(str(tmp_path), lambda step: None)
    stream = heard(range(3, 20), 6, adapter=str(tmp_path))
    runner.submit(stream)
    while runner.busy:
        runner.step()
    assert not runner.tidy()
    assert stream.tokens == generated(adapted, range(3, 20), 6)
