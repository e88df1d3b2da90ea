"""Shapes of config.json as the models' documentation has them: only the fields that decide, and what they must bring.

The expected packages are those beside torch and safetensors; `transformers` is written where it is not the tested one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shape:
    """One model directory: config.json, other files, and what `auto` must make of them."""

    name: str
    config: Mapping[str, Any]
    expected: str = ""
    """Package names, one blank between them."""
    transformers: str = ""
    """The requirement; empty is the tested release."""
    since: str = ""
    """The release that must be named in the reason."""
    files: tuple[str, ...] = ("tokenizer.json",)
    code: str = ""
    """Source of the model's own code; then it may run."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model in the configuration."""
    remark: str = ""
    """What a remark must say."""


def _model(kind: str, architecture: str, saved_with: str = "4.40.0", **more: Any) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [architecture], "transformers_version": saved_with, **more}


def _plain(kind: str, architecture: str, since: str, **more: Any) -> Shape:
    return Shape(kind, _model(kind, architecture, **more), since=since)


def _quantized(method: str, expected: str, **more: Any) -> Shape:
    config = {"quant_method": method, **more}
    return Shape(f"llama-{method}", _model("llama", "LlamaForCausalLM", quantization_config=config), expected)


PLAIN = (
    _plain("llama", "LlamaForCausalLM", ""),
    _plain("gpt2", "GPT2LMHeadModel", ""),
    _plain("gpt_neox", "GPTNeoXForCausalLM", ""),
    _plain("opt", "OPTForCausalLM", ""),
    _plain("bloom", "BloomForCausalLM", ""),
    _plain("gptj", "GPTJForCausalLM", ""),
    _plain("falcon", "FalconForCausalLM", "4.31"),
    _plain("mpt", "MPTForCausalLM", "4.33"),
    _plain("mistral", "MistralForCausalLM", "4.34"),
    _plain("mixtral", "MixtralForCausalLM", "4.36"),
    _plain("phi", "PhiForCausalLM", "4.36"),
    _plain("qwen2", "Qwen2ForCausalLM", "4.37"),
    _plain("gemma", "GemmaForCausalLM", "4.38"),
    _plain("stablelm", "StableLmForCausalLM", "4.38"),
    _plain("starcoder2", "Starcoder2ForCausalLM", "4.39"),
    _plain("cohere", "CohereForCausalLM", "4.39"),
    _plain("olmo", "OlmoForCausalLM", "4.40"),
    _plain("qwen2_moe", "Qwen2MoeForCausalLM", "4.40"),
    _plain("phi3", "Phi3ForCausalLM", "4.41"),
    _plain("gemma2", "Gemma2ForCausalLM", "4.42"),
    _plain("granite", "GraniteForCausalLM", "4.45"),
    _plain("glm", "GlmForCausalLM", "4.46"),
    _plain("olmo2", "Olmo2ForCausalLM", "4.47"),
    _plain("cohere2", "Cohere2ForCausalLM", "4.48"),
    _plain("gemma3_text", "Gemma3ForCausalLM", "4.50"),
    _plain("qwen3", "Qwen3ForCausalLM", "4.51", saved_with="4.51.0"),
    _plain("qwen3_moe", "Qwen3MoeForCausalLM", "4.51"),
    _plain("deepseek_v3", "DeepseekV3ForCausalLM", "4.51"),
    _plain("glm4", "Glm4ForCausalLM", "4.51"),
    _plain("smollm3", "SmolLM3ForCausalLM", "4.53"),
    _plain("ernie4_5", "Ernie4_5ForCausalLM", "4.54"),
    _plain("exaone4", "Exaone4ForCausalLM", "4.54"),
    _plain("glm4_moe", "Glm4MoeForCausalLM", "4.54"),
    _plain("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", "4.56"),
    _plain("seed_oss", "SeedOssForCausalLM", "4.56"),
    _plain("olmo3", "Olmo3ForCausalLM", "4.57"),
    _plain("ministral3", "Ministral3ForCausalLM", "5.0"),
    _plain("minimax_m2", "MiniMaxM2ForCausalLM", "5.0"),
)
RECURRENT = tuple(
    Shape(kind, _model(kind, architecture), since=since, remark=f"runs {kind} without them since {plain}")
    for kind, architecture, since, plain in (
        ("mamba", "MambaForCausalLM", "4.39", "4.39"),
        ("mamba2", "Mamba2ForCausalLM", "4.44", "4.44"),
        ("falcon_mamba", "FalconMambaForCausalLM", "4.45", "4.45"),
        ("jamba", "JambaForCausalLM", "4.40", "5.15"),
        ("zamba", "ZambaForCausalLM", "4.46", "5.15"),
        ("zamba2", "Zamba2ForCausalLM", "4.49", "4.49"),
        ("bamba", "BambaForCausalLM", "4.48", "4.48"),
        ("falcon_h1", "FalconH1ForCausalLM", "4.53", "4.53"),
        ("granitemoehybrid", "GraniteMoeHybridForCausalLM", "4.52", "4.52"),
        ("lfm2", "Lfm2ForCausalLM", "4.54", "4.54"),
        ("qwen3_next", "Qwen3NextForCausalLM", "4.57", "4.57"),
        ("nemotron_h", "NemotronHForCausalLM", "5.3", "5.3"),
    )
)
QUANTIZED = (
    _quantized("bitsandbytes", "bitsandbytes accelerate", load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    _quantized("gptq", "gptqmodel optimum accelerate", bits=4, group_size=128, desc_act=False),
    _quantized("awq", "gptqmodel accelerate", bits=4, group_size=128, version="gemm", zero_point=True),
    _quantized("compressed-tensors", "compressed-tensors accelerate", format="float-quantized"),
    _quantized("fp8", "kernels accelerate", activation_scheme="dynamic", weight_block_size=[128, 128]),
    _quantized("fbgemm_fp8", "fbgemm-gpu-genai accelerate", activation_scale_ub=1200.0),
    _quantized("torchao", "torchao accelerate", quant_type={"default": {"_type": "Int4WeightOnlyConfig"}}),
    _quantized("quanto", "optimum-quanto accelerate", weights="int8"),
    _quantized("hqq", "hqq accelerate", quant_config={"weight_quant_params": {"nbits": 4}}),
    _quantized("aqlm", "aqlm accelerate", nbits_per_codebook=16, num_codebooks=1),
    _quantized("vptq", "vptq accelerate"),
    _quantized("auto-round", "auto-round accelerate", bits=4, sym=True),
    _quantized("bitnet", "accelerate"),
    _quantized("eetq", "kernels accelerate", weights="int8"),
    _quantized("quark", "amd-quark accelerate"),
    Shape(
        "llama-8bit",
        _model("llama", "LlamaForCausalLM", quantization_config={"load_in_8bit": True}),
        "bitsandbytes accelerate",
    ),
    Shape(
        "gpt_oss",
        _model("gpt_oss", "GptOssForCausalLM", "4.55.0", quantization_config={"quant_method": "mxfp4"}),
        "kernels accelerate",
        since="4.55",
    ),
    Shape(
        "llama-gptq-old",
        _model("llama", "LlamaForCausalLM"),
        "gptqmodel optimum accelerate",
        files=("tokenizer.json", "quantize_config.json"),
    ),
    Shape(
        "llama-awq-old",
        _model("llama", "LlamaForCausalLM"),
        "gptqmodel accelerate",
        files=("tokenizer.json", "quant_config.json"),
    ),
    Shape("llama-nf4", _model("llama", "LlamaForCausalLM"), "bitsandbytes accelerate", options={"quantization": "nf4"}),
    Shape(
        "llama-int8", _model("llama", "LlamaForCausalLM"), "bitsandbytes accelerate", options={"quantization": "int8"}
    ),
)
TOKENIZERS = (
    Shape(
        "llama-sentencepiece", _model("llama", "LlamaForCausalLM"), "sentencepiece protobuf", files=("tokenizer.model",)
    ),
    Shape(
        "t5-like",
        _model("pegasus", "PegasusForConditionalGeneration"),
        "sentencepiece protobuf",
        files=("spiece.model",),
    ),
    Shape(
        "xlm-roberta",
        _model("xlm-roberta", "XLMRobertaForCausalLM"),
        "sentencepiece protobuf",
        files=("sentencepiece.bpe.model",),
    ),
    Shape(
        "mistral-tekken",
        _model("mistral", "MistralForCausalLM"),
        "mistral-common tiktoken",
        since="4.34",
        files=("tekken.json",),
    ),
    Shape("tiktoken", _model("llama", "LlamaForCausalLM"), "tiktoken", files=("tiktoken.model",)),
    Shape("both", _model("llama", "LlamaForCausalLM"), "", files=("tokenizer.model", "tokenizer.json")),
)
PARTS = (
    Shape(
        "gemma3",
        _model("gemma3", "Gemma3ForConditionalGeneration", vision_config={"model_type": "siglip_vision_model"}),
        "pillow",
        since="4.50",
    ),
    Shape(
        "gemma3n",
        _model("gemma3n", "Gemma3nForConditionalGeneration", vision_config={"model_type": "gemma3n_vision"}),
        "pillow timm",
        since="4.53",
    ),
    Shape(
        "llama4",
        _model("llama4", "Llama4ForConditionalGeneration", vision_config={"model_type": "llama4_vision_model"}),
        "pillow",
        since="4.51",
    ),
    Shape(
        "mllama",
        _model("mllama", "MllamaForConditionalGeneration", vision_config={"model_type": "mllama_vision_model"}),
        "pillow",
        since="4.45",
    ),
    Shape(
        "qwen2_5_vl",
        _model("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", vision_config={"depth": 32}),
        "pillow",
        since="4.49",
    ),
    Shape(
        "perception_lm",
        _model("perception_lm", "PerceptionLMForConditionalGeneration", vision_config={"model_type": "timm_wrapper"}),
        "pillow timm",
        since="4.54",
    ),
    Shape(
        "mistral3",
        _model("mistral3", "Mistral3ForConditionalGeneration", vision_config={"model_type": "pixtral"}),
        "pillow",
        since="4.50",
    ),
    Shape("flash", _model("llama", "LlamaForCausalLM", _attn_implementation="flash_attention_2"), "kernels"),
)
OWN_CODE = (
    Shape(
        "phi3-own-code",
        _model("phi3", "Phi3ForCausalLM", "4.48.1", auto_map={"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}),
        transformers="transformers==4.48.*",
        code="import torch\nfrom transformers.cache_utils import Cache\n",
        remark="transformers knows phi3 by itself since 4.41",
    ),
    Shape(
        "internlm2",
        _model("internlm2", "InternLM2ForCausalLM", "4.41.0", auto_map={"AutoConfig": "configuration_internlm2.X"}),
        "einops sentencepiece protobuf",
        transformers="transformers==4.46.*",
        files=("tokenizer.model",),
        code="from einops import rearrange\nimport sentencepiece as spm\n",
    ),
    Shape(
        "nemotron_h-own-code",
        _model("nemotron_h", "NemotronHForCausalLM", "4.51.0", auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        "mamba-ssm",
        transformers="transformers==4.51.*",
        code="from mamba_ssm.ops import f\ntry:\n    import causal_conv1d\nexcept ImportError: ...\n",
        remark="transformers knows nemotron_h by itself since 5.3",
    ),
    Shape(
        "clip-like-own-code",
        _model("multi", "MultiForCausalLM", "5.2.0", auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        "open-clip-torch timm torchvision",
        transformers="transformers==5.2.*",
        code="import timm, open_clip\nfrom torchvision import transforms\n"
        "if is_flash_attn_2_available():\n    import flash_attn\n",
    ),
    Shape(
        "flash-own-code",
        _model("phi3small", "Phi3SmallForCausalLM", "4.47.0", auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        "tiktoken",
        transformers="transformers==4.47.*",
        code="import flash_attn\nimport tiktoken\n",
        remark="flash_attn, which must be compiled",
    ),
    Shape(
        "own-code-with-rare-import",
        _model("rare", "RareForCausalLM", "4.57.0", auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        transformers="transformers==4.57.*",
        code="from . import configuration_x\nimport very_rare_package\n",
        remark="very_rare_package, which no row of the table knows",
    ),
)
ODD = (
    Shape(
        "baichuan-code-may-not-run",
        _model("baichuan", "BaichuanForCausalLM", auto_map={"AutoModelForCausalLM": "modeling_baichuan.X"}),
    ),
    Shape("never-heard-of", _model("nobody_knows", "NobodyForCausalLM"), transformers="transformers>=5.23.0"),
    Shape("dropped", _model("transfo-xl", "TransfoXLLMHeadModel"), transformers="transformers==4.57.*", since="4.57"),
    Shape("code_llama", _model("code_llama", "LlamaForCausalLM"), transformers="transformers==5.5.*", since="5.5"),
    Shape("of-tomorrow", _model("llama", "LlamaForCausalLM", "7.1.0"), transformers="transformers>=7.1.0"),
    Shape("not-out-yet", _model("llama", "LlamaForCausalLM", "7.1.0.dev0"), transformers="transformers>=5.23.0"),
    Shape("no-type", {"architectures": ["LlamaForCausalLM"]}),
)
ALL = (*PLAIN, *RECURRENT, *QUANTIZED, *TOKENIZERS, *PARTS, *OWN_CODE, *ODD)
