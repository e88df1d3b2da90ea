"""Which recurrent models go on rightly from a saved state, found by asking them."""

from __future__ import annotations

import pytest

from bainmarie_worker.continuation import continuation_fault

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves

COMMON = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
KINDS = {
    "llama": {},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_n_groups": 1,
        "head_dim": 16,
    },
    "nemotron_h": {
        "hybrid_override_pattern": "M*-M",
        "num_hidden_layers": 4,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "n_groups": 1,
        "head_dim": 16,
    },
    "qwen3_next": {
        **EXPERTS,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "shared_expert_intermediate_size": 32,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 16,
        "use_mamba_kernels": False,
    },
}


def tiny(kind):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(COMMON | KINDS[kind]))).float().eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.15)
    return model


@pytest.mark.parametrize("kind", ["llama", "mamba2", "falcon_h1", "nemotron_h", "qwen3_next"])
def test_models_that_continue_or_need_not(kind):
    assert continuation_fault(tiny(kind), "cpu") == ""


def test_a_model_that_forgets_its_state():
    assert "JambaForCausalLM does not continue a saved state" in continuation_fault(tiny("jamba"), "cpu")


def test_a_model_that_cannot_use_the_common_cache():
    model = tiny("falcon_h1")
    forward = model.forward

    def without_cache(input_ids, past_key_values=None, **options):
        if past_key_values is not None:
            raise AttributeError("'DynamicCache' object has no attribute 'conv_states'")
        return forward(input_ids, **options)

    model.forward = without_cache
    assert "cannot use the common cache: AttributeError" in continuation_fault(model, "cpu")
