"""Tiny random models of many architectures, in float32: what the engine must compute as the library does."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch

_SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_ENDS: dict[str, Any] = {"vocab_size": 128, "bos_token_id": 1, "eos_token_id": None}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SPREAD = 0.2
"""Of random weights: so large that every token depends on many before it."""

_VARIED = (
    *("norm.weight", "norm_1.weight", "norm_2.weight", "proj.bias", "conv.bias", "conv1d.bias", "expert_bias"),
    *("e_score_correction_bias", "layer_scalar", "router.scale", "per_expert_scale", "router.bias", "sinks"),
)
"""Ends of the names of numbers that a new model has all alike."""


@dataclass(frozen=True)
class Architecture:
    """One that transformers knows by `name`."""

    name: str
    settings: dict[str, Any]
    why: str = ""
    """Part of the reason why it goes no faster way."""
    path: str = "packed"

    @property
    def title(self) -> str:
        bias = "-bias" if any(self.settings.get(f"{part}_bias") for part in ("mlp", "conv", "mamba_proj")) else ""
        wide = "-wide" if self.settings.get("intermediate_size", 0) > 1000 else ""
        return f"{self.name}-{self.path}{bias}{wide}"


_UNKNOWN = "is not among the known kinds"
_SMALL = "no multiples of 32"


def _sized(name: str, why: str = _UNKNOWN, path: str = "packed", without: str = "", **settings: Any) -> Architecture:
    sizes = {key: value for key, value in _SIZES.items() if key != without}
    return Architecture(name, {**sizes, **settings}, why, path)


def _fused(name: str, **settings: Any) -> Architecture:
    return _sized(name, "", "fused", head_dim=32, **settings)


_ALTERNATING: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_UNTIED = {"tie_word_embeddings": False}
"""Else a tiny Gemma, whose embeddings are scaled up, repeats its last token for ever."""
_SEEING = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
_RECURRENT = ("recurrent state", "apart")
_DELTA: dict[str, Any] = {
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_hidden_layers": 3,
}
_SHORT: dict[str, Any] = {
    "num_hidden_layers": 3,
    "layer_types": ["conv", "full_attention", "conv"],
    "block_auto_adjust_ff_dim": False,
}
_MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 32,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_FALCON: dict[str, Any] = {
    **_MAMBA,
    "mamba_d_ssm": 128,
    "ssm_multipliers": [0.7, 1.2, 0.8, 1.4, 0.6],
    "mlp_multipliers": [0.8, 1.3],
    "ssm_in_multiplier": 1.2,
    "ssm_out_multiplier": 0.7,
    "attention_in_multiplier": 0.9,
    "attention_out_multiplier": 1.1,
    "key_multiplier": 0.6,
    "embedding_multiplier": 2.0,
    "lm_head_multiplier": 0.5,
}
_NEMOTRON: dict[str, Any] = {
    "mamba_num_heads": 16,
    "mamba_head_dim": 12,
    "ssm_state_size": 32,
    "n_groups": 2,
    "chunk_size": 16,
}
_GRANITE: dict[str, Any] = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "shared_intermediate_size": 64,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.5,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
}
_YARN: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "truncate": False,
    }
}
_YARN_ALL: dict[str, Any] = {
    "rope_parameters": {**_YARN["rope_parameters"], "mscale": 0.7, "mscale_all_dim": 1.3},
}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 24,
    "qk_nope_head_dim": 40,
    "v_head_dim": 32,
}
_ROUTED: dict[str, Any] = {
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "routed_scaling_factor": 1.5,
}


def _latent(name: str, **settings: Any) -> Architecture:
    return _sized(name, "", "fused", without="head_dim", **{**_LATENT, **settings})


ARCHITECTURES = (
    _fused("llama", num_attention_heads=2, num_key_value_heads=1),
    _fused("llama", intermediate_size=1056, num_attention_heads=2),
    _fused("llama", attention_bias=True, mlp_bias=True, num_attention_heads=8, num_key_value_heads=2),
    _fused("qwen2", num_key_value_heads=1),
    _fused("qwen3", tie_word_embeddings=True, rms_norm_eps=0.05),
    _fused("mistral", sliding_window=8, num_key_value_heads=4, hidden_act="gelu_pytorch_tanh"),
    _fused(
        "granite",
        num_attention_heads=2,
        embedding_multiplier=3.0,
        residual_multiplier=0.5,
        attention_multiplier=0.3,
        logits_scaling=2.0,
    ),
    _fused("phi3", num_attention_heads=2, num_key_value_heads=1),
    _fused("gemma", num_key_value_heads=1, **_UNTIED),
    _fused("gemma2", attn_logit_softcapping=2.0, final_logit_softcapping=3.0, **_ALTERNATING, **_UNTIED),
    _fused("gemma3_text", query_pre_attn_scalar=32, **_ALTERNATING, **_UNTIED),
    _fused(
        "gemma4_text",
        num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        sliding_window=8,
        global_head_dim=64,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        hidden_size_per_layer_input=0,
        final_logit_softcapping=30.0,
        **_UNTIED,
    ),
    _fused(
        "gemma4_text",
        num_hidden_layers=5,
        layer_types=[*["sliding_attention", "full_attention"] * 2, "full_attention"],
        sliding_window=8,
        global_head_dim=64,
        num_key_value_heads=1,
        num_kv_shared_layers=3,
        use_double_wide_mlp=True,
        hidden_size_per_layer_input=32,
        vocab_size_per_layer_input=128,
        **_UNTIED,
    ),
    _fused(
        "gemma4_text",
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=5,
        top_k_experts=3,
        moe_intermediate_size=32,
        global_head_dim=32,
        **_ALTERNATING,
        **_UNTIED,
    ),
    *(
        Architecture(
            name,
            {
                "text_config": {**_SIZES, "head_dim": 32, "hidden_size_per_layer_input": 0, **_ALTERNATING},
                "vision_config": {**_SEEING, "head_dim": 16, "num_key_value_heads": 2},
                "image_token_id": 5,
                **_UNTIED,
            },
            path="fused",
        )
        for name in ("gemma4", "gemma4_unified")
    ),
    _fused("ministral", num_key_value_heads=4, **_ALTERNATING),
    _fused("smollm3", num_key_value_heads=1, no_rope_layers=[1, 0], layer_types=["full_attention"] * 2),
    Architecture(
        "gemma3",
        {
            "text_config": {**_SIZES, "head_dim": 32, "query_pre_attn_scalar": 32, **_ALTERNATING},
            "image_token_index": 2,  # a token of the vocabulary, as in the published models
            "vision_config": _SEEING,
            **_UNTIED,
        },
        path="fused",
    ),
    _fused("qwen3_5_text", **_DELTA),
    Architecture(
        "qwen3_5",
        {
            "text_config": {
                **_SIZES,
                "head_dim": 32,
                **_DELTA,
                "linear_conv_kernel_dim": 3,
                "linear_num_value_heads": 2,
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "depth": 1,
                "num_heads": 2,
                "out_hidden_size": 64,
            },
        },
        path="fused",
    ),
    _fused(
        "qwen3_5_moe_text",
        shared_expert_intermediate_size=64,
        **_DELTA,
        **{**_EXPERTS, "num_experts_per_tok": 3},
    ),
    _fused("granitemoehybrid", num_local_experts=0, mamba_conv_bias=False, **_GRANITE, **_MAMBA),
    _fused(
        "granitemoehybrid",
        num_local_experts=4,
        num_experts_per_tok=2,
        position_embedding_type="rope",
        num_attention_heads=2,
        **{**_GRANITE, **_MAMBA, "mamba_n_groups": 2},
        mamba_proj_bias=True,
    ),
    _fused(
        "bamba", attn_layer_indices=[1], **{**_MAMBA, "num_hidden_layers": 3, "mamba_proj_bias": True, "mlp_bias": True}
    ),
    _fused("falcon_h1", mamba_conv_bias=False, num_key_value_heads=1, **_FALCON),
    _fused(
        "falcon_h1",
        mamba_rms_norm=True,
        mamba_norm_before_gate=False,
        mlp_bias=True,
        projectors_bias=True,
        **{**_FALCON, "mamba_n_groups": 2},
    ),
    _fused("nemotron_h", hybrid_override_pattern="M-*M", use_conv_bias=False, mlp_bias=True, **_NEMOTRON),
    _fused(
        "nemotron_h",
        hybrid_override_pattern="*EM-",
        n_routed_experts=8,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=3,
        moe_intermediate_size=32,
        moe_shared_expert_intermediate_size=64,
        routed_scaling_factor=1.5,
        **{**_NEMOTRON, "n_groups": 1},
    ),
    Architecture(
        "mamba2",
        {
            **_ENDS,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_heads": 16,
            "head_dim": 8,
            "expand": 2,
            "state_size": 32,
            "n_groups": 2,
            "chunk_size": 16,
        },
        path="fused",
    ),
    _fused("lfm2_moe", num_dense_layers=1, **_SHORT, **{**_EXPERTS, "num_experts_per_tok": 3}),
    _fused(
        "lfm2_moe",
        num_dense_layers=0,
        use_expert_bias=False,
        norm_topk_prob=False,
        conv_bias=True,
        **_SHORT,
        **{**_EXPERTS, "num_experts_per_tok": 4},
    ),
    _fused("lfm2", conv_L_cache=4, **_SHORT),
    _fused("lfm2", conv_bias=True, num_key_value_heads=1, **_SHORT),
    _fused(
        "qwen3_moe",
        num_attention_heads=2,
        num_key_value_heads=1,
        mlp_only_layers=[0],
        **{**_EXPERTS, "norm_topk_prob": False},
    ),
    _fused(
        "qwen2_moe",
        num_key_value_heads=1,
        mlp_only_layers=[0],
        shared_expert_intermediate_size=64,
        **_EXPERTS,
    ),
    _fused(
        "glm4_moe",
        num_attention_heads=2,
        attention_bias=True,
        use_qk_norm=True,
        n_routed_experts=8,
        n_shared_experts=2,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=3,
        moe_intermediate_size=32,
        routed_scaling_factor=1.5,
    ),
    _fused("mixtral", num_local_experts=5, num_experts_per_tok=3),
    _fused(
        "granitemoe",
        num_local_experts=4,
        num_experts_per_tok=2,
        attention_multiplier=0.3,
        residual_multiplier=0.5,
        logits_scaling=2.0,
    ),
    _fused("olmoe", num_experts=4, num_experts_per_tok=2, num_attention_heads=2, num_key_value_heads=2),
    _fused("olmo2", num_key_value_heads=1, rms_norm_eps=0.05),
    _fused("olmo3", attention_bias=True, **_ALTERNATING),
    _fused("flex_olmo", num_experts=5, num_experts_per_tok=2, norm_topk_prob=True),
    _fused("seed_oss", attention_out_bias=True, num_key_value_heads=1),
    _fused("glm", attention_bias=True, num_key_value_heads=1),
    _fused("glm4", attention_bias=True, num_attention_heads=2),
    _fused("helium", num_attention_heads=2),
    _fused("ernie4_5", use_bias=True, num_key_value_heads=1),
    _fused(
        "dots1",
        num_attention_heads=2,
        n_routed_experts=6,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        moe_intermediate_size=32,
        norm_topk_prob=True,
        **_ALTERNATING,
    ),
    _fused("exaone4", sliding_window_pattern=2, **_ALTERNATING),
    _fused("exaone4", sliding_window=None, layer_types=["full_attention"] * 2, num_attention_heads=2),
    _fused("hunyuan_v1_dense", rope_scaling={"type": "dynamic", "alpha": 8.0, "factor": 1.0}, rope_theta=10000.0),
    _fused(
        "ministral3",
        num_attention_heads=2,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.2,
        },
    ),
    _fused(
        "granitemoeshared",
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=64,
        attention_multiplier=0.3,
        residual_multiplier=0.5,
        embedding_multiplier=3.0,
    ),
    _fused("gpt_oss", num_local_experts=5, num_experts_per_tok=3, sliding_window=8, swiglu_limit=0.5, **_YARN),
    _fused(
        "gpt_oss",
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["full_attention", "sliding_attention"],
        attention_bias=False,
        rms_norm_eps=0.05,
        swiglu_alpha=2.5,
    ),
    _fused("qwen3_next", mlp_only_layers=[1], shared_expert_intermediate_size=64, **_DELTA, **_EXPERTS),
    _fused(
        "qwen3_next",
        num_key_value_heads=1,
        norm_topk_prob=False,
        shared_expert_intermediate_size=32,
        attention_bias=True,
        rms_norm_eps=0.05,
        **{**_DELTA, "linear_num_value_heads": 6, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 3},
        **{**_EXPERTS, "num_experts_per_tok": 3},
    ),
    _fused(
        "minimax_m2",
        num_key_value_heads=1,
        num_local_experts=5,
        num_experts_per_tok=2,
        rms_norm_eps=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    _fused(
        "ernie4_5_moe",
        use_bias=True,
        moe_num_experts=5,
        moe_k=3,
        moe_num_shared_experts=2,
        moe_intermediate_size=32,
        moe_layer_start_index=1,
        moe_norm_min=0.7,
    ),
    _fused("hunyuan_v1_moe", num_experts=5, moe_topk=3, num_key_value_heads=1, attention_bias=True, rms_norm_eps=0.05),
    _fused(
        "exaone_moe",
        num_experts=8,
        num_experts_per_tok=3,
        num_shared_experts=2,
        moe_intermediate_size=32,
        routed_scaling_factor=1.5,
        n_group=4,
        topk_group=2,
        mlp_layer_types=["dense", "sparse"],
        sliding_window_pattern=2,
        **_ALTERNATING,
    ),
    _latent("deepseek_v3", first_k_dense_replace=1, n_group=4, topk_group=2, rms_norm_eps=0.05, **_ROUTED),
    _latent(
        "deepseek_v3",
        attention_bias=True,
        rope_interleave=False,
        first_k_dense_replace=0,
        n_group=1,
        topk_group=1,
        norm_topk_prob=False,
        q_lora_rank=None,
        v_head_dim=64,
        **_ROUTED,
        **_YARN_ALL,
    ),
    _latent(
        "deepseek_v2",
        first_k_dense_replace=1,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        attention_bias=True,
        rms_norm_eps=0.05,
        **_ROUTED,
        **_YARN_ALL,
    ),
    _latent(
        "deepseek_v2",
        first_k_dense_replace=1,
        topk_method="greedy",
        q_lora_rank=None,
        **_ROUTED,
    ),
    _latent(
        "glm4_moe_lite",
        n_group=1,
        topk_group=1,
        mlp_layer_types=["dense", "sparse"],
        v_head_dim=64,
        **_ROUTED,
    ),
    _latent(
        "mistral4",
        first_k_dense_replace=1,
        n_group=4,
        topk_group=2,
        norm_topk_prob=True,
        rope_parameters={
            **_YARN_ALL["rope_parameters"],
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.2,
        },
        **_ROUTED,
    ),
    _latent("youtu", rms_norm_eps=0.05),
    _sized(
        "olmoe",
        "within bounds",
        head_dim=32,
        num_attention_heads=2,
        clip_qkv=1.0,
        num_experts=4,
        num_experts_per_tok=2,
    ),
    _sized("llama", _SMALL),
    _sized("qwen2", _SMALL),
    _sized("qwen3", _SMALL),
    _sized("qwen3_moe", _SMALL, decoder_sparse_step=1, **_EXPERTS),
    _sized("qwen2_moe", _SMALL, shared_expert_intermediate_size=64, **_EXPERTS),
    _sized("mistral", _SMALL, sliding_window=8),
    _sized("mixtral", _SMALL, num_local_experts=4),
    _sized("gemma2", _SMALL, **_ALTERNATING),
    _sized("gemma3_text", _SMALL, **_ALTERNATING),
    _sized("phi3", _SMALL),
    _sized("granite", _SMALL),
    _sized("olmo2", _SMALL),
    Architecture("gpt2", {**_ENDS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}, _UNKNOWN),
    _sized("gpt_neox", rotary_pct=0.25),
    _sized("stablelm"),
    _sized(
        "deepseek_v3",
        _SMALL,
        without="head_dim",
        num_key_value_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
    ),
    _sized("glm4", _SMALL),
    _sized("gpt_oss", _SMALL, sliding_window=8, num_local_experts=4),
    _sized("phimoe", "told of the window None", "apart", sliding_window=40, num_local_experts=4),
    _sized(
        "llama4_text",
        "chunked_attention",
        "apart",
        attention_chunk_size=64,
        num_local_experts=2,
        interleave_moe_layer_step=1,
        intermediate_size_mlp=96,
    ),
    _sized(
        "falcon_h1",
        *_RECURRENT,
        mamba_d_ssm=64,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=16,
        mamba_n_groups=1,
        mamba_chunk_size=16,
    ),
    _sized(
        "nemotron_h",
        *_RECURRENT,
        mamba_num_heads=8,
        mamba_head_dim=16,
        ssm_state_size=16,
        n_groups=1,
        hybrid_override_pattern="M*",
        chunk_size=16,
    ),
    Architecture(
        "mamba2",
        {
            **_ENDS,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 16,
            "expand": 2,
            "state_size": 16,
            "n_groups": 1,
        },
        *_RECURRENT,
    ),
    _sized(
        "minimax",
        "layers of its own kind",
        "apart",
        num_local_experts=4,
        block_size=16,
        layer_types=["full_attention", "linear_attention"],
    ),
)

RECURRENT = (
    *("qwen3_5_text", "qwen3_5", "qwen3_5_moe_text", "lfm2", "lfm2_moe"),
    *("granitemoehybrid", "falcon_h1", "nemotron_h", "bamba", "mamba2", "qwen3_next"),
)
"""Names of those that compiled code packs, and their own code cannot."""
SEEN_AMONG_IMAGES = ("mistral4",)
"""Names of those that transformers has among the models that also see."""
CAPTURED = tuple(
    replace(known, path="captured", why="")
    for known in ARCHITECTURES
    if (known.path == "packed" and known.name in ("llama", "gemma2", "gpt_oss", "qwen3_moe", "deepseek_v3"))
    or "num_kv_shared_layers" in known.settings
)
"""By the way of CUDA devices; see `captured_way`."""
APART = tuple(
    replace(known, path="apart", why="the option path is apart")
    for known in ARCHITECTURES
    if known.name == "qwen3_5_text"
)
"""By a way that is not their best one."""

BY_GENERATE = (
    Architecture(
        "mamba",
        {**_ENDS, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16},
        "with a cache it computes something else",
    ),
    _sized(
        "jamba",
        "with a cache it computes something else",
        num_experts=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        use_mamba_kernels=False,
    ),
)
"""The code of both forgets its state where several tokens follow it."""


def architecture(name: str) -> Architecture:
    return next(known for known in ARCHITECTURES if known.name == name)


def make(known: Architecture) -> Any:
    """The same weights each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

        config = AutoConfig.for_model(known.name, **known.settings)
        torch.manual_seed(0)
        kind = AutoModelForImageTextToText if known.name in SEEN_AMONG_IMAGES else AutoModelForCausalLM
        model = kind.from_config(config).float().eval()
    for name, weights in model.named_parameters():
        if weights.dim() > 1 and "A_log" not in name:
            torch.nn.init.normal_(weights, std=_SPREAD)
        if name.endswith("A_log") and weights.dim() == 1:
            torch.nn.init.uniform_(weights, -5, 0)  # else it would forget each token at once
        if name.endswith((".D", "mamba.dt_bias", "mixer.dt_bias")):
            torch.nn.init.uniform_(weights, -1, 1)
    chance = torch.Generator().manual_seed(1)
    for name, numbers in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(_VARIED):
            numbers.data += _SPREAD * torch.randn(numbers.shape, generator=chance)
        if known.name.startswith("gemma4") and name.endswith("q_norm.weight"):
            numbers.data /= 8  # whose scores are not scaled
    return model
