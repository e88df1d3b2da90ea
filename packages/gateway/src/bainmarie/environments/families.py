"""Which release of transformers knows which model_type: read from the releases themselves, 4.30 to 5.23.

Types that generate text alone (causal language models, and those that also take images or sound), not encoders.
"""

from __future__ import annotations

from collections.abc import Mapping

_SINCE: Mapping[str, str] = {
    "4.30": (
        "bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot blenderbot-small blip blip-2 "
        "bloom camembert codegen cpmant ctrl data2vec-text electra ernie git gpt-sw3 gpt2 gpt_bigcode gpt_neo "
        "gpt_neox gpt_neox_japanese gptj llama marian mbart mega megatron-bert mvp open-llama openai-gpt opt "
        "pegasus pix2struct plbart prophetnet qdqbert reformer rembert roberta roberta-prelayernorm roc_bert "
        "roformer rwkv speech_to_text_2 transfo-xl trocr vision-encoder-decoder whisper xglm xlm "
        "xlm-prophetnet xlm-roberta xlm-roberta-xl xlnet xmod"
    ),
    "4.31": "falcon instructblip musicgen",
    "4.33": "code_llama idefics mpt",
    "4.34": "mistral persimmon",
    "4.35": "fuyu kosmos-2",
    "4.36": "llava mixtral phi",
    "4.37": "qwen2 vipllava",
    "4.38": "gemma stablelm",
    "4.39": "cohere llava_next mamba musicgen_melody starcoder2 udop",
    "4.40": "dbrx idefics2 jamba olmo qwen2_moe recurrent_gemma",
    "4.41": "jetmoe paligemma phi3 video_llava",
    "4.42": "gemma2 instructblipvideo",
    "4.43": "chameleon",
    "4.44": "mamba2 nemotron",
    "4.45": (
        "falcon_mamba granite granitemoe llava_next_video llava_onevision mllama olmoe pixtral qwen2_audio qwen2_vl"
    ),
    "4.46": "glm idefics3 moshi phimoe zamba",
    "4.47": "olmo2",
    "4.48": "aria aria_text bamba cohere2 diffllama emu3",
    "4.49": "got_ocr2 granitemoeshared helium qwen2_5_vl zamba2",
    "4.50": "aya_vision gemma3 gemma3_text mistral3 shieldgemma2 smolvlm",
    "4.51": "deepseek_v3 glm4 llama4 llama4_text phi4_multimodal qwen3 qwen3_moe",
    "4.52": "bitnet granite_speech granitemoehybrid internvl janus qwen2_5_omni",
    "4.53": "arcee dots1 falcon_h1 gemma3n gemma3n_text glm4v kyutai_speech_to_text minimax smollm3",
    "4.54": (
        "deepseek_v2 deepseek_vl deepseek_vl_hybrid doge ernie4_5 ernie4_5_moe evolla exaone4 glm4_moe lfm2 "
        "modernbert-decoder perception_lm voxtral xlstm"
    ),
    "4.55": "cohere2_vision gpt_oss",
    "4.56": "apertus florence2 glm4v_moe hunyuan_v1_dense hunyuan_v1_moe kosmos-2.5 ovis2 seed_oss",
    "4.57": (
        "blt flex_olmo lfm2_vl longcat_flash ministral olmo3 qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vaultgemma"
    ),
    "5.0": (
        "afmoe cwm ernie4_5_vl_moe fast_vlm glm46v glm4_moe_lite glmasr jais2 lfm2_moe lighton_ocr minimax_m2 "
        "ministral3 nanochat paddleocr_vl solar_open t5gemma2 video_llama_3"
    ),
    "5.1": "exaone_moe glm_ocr youtu",
    "5.2": "glm_moe_dsa qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text voxtral_realtime",
    "5.3": "nemotron_h olmo_hybrid vibevoice_asr",
    "5.4": "mistral4 pi0 pp_chart2table",
    "5.5": "gemma4 gemma4_text",
    "5.6": "hy_v3 qianfan_ocr qwen2_5_omni_thinker qwen3_omni_moe_thinker",
    "5.7": "laguna minicpmv4_6",
    "5.8": "deepseek_v4 exaone4_5 gemma4_assistant granite4_vision granite_speech_plus pp_formulanet",
    "5.9": "cohere2_moe hrm_text hyperclovax",
    "5.10": "deepseek_ocr2 gemma4_unified gemma4_unified_assistant gemma4_unified_text glmga mellum",
    "5.11": "cosmos3_omni deepseek_v32 diffusion_gemma",
    "5.12": "minimax_m3_vl minimax_m3_vl_text",
    "5.13": "hunyuan_vl kimi_k25 mimo_v2_flash minicpm3 qwen3_asr zaya",
    "5.14": "inkling_mm_model inkling_text",
    "5.15": "axk1 axk2 cosmos3_edge granite_swa granitemoe_swa muse_glimmer",
    "5.16": "cohere_compass cohere_compass_text glm5_next qwen4_exp qwen4_exp_text step3p7",
    "5.17": "fun_asr_nano hy_v4 kimi_linear",
    "5.18": "hyperclovax_vision_v2 minicpmv4_7 nemotron_h_omni",
    "5.20": "bailing_hybrid beam kolibri1 molmo2 moss_transcribe_diarize muse_spark unlimited_ocr",
    "5.21": "flint minicpm_ocr",
    "5.22": "mistral_large4 nemo_speechlm",
    "5.23": "dots3_note dots3_note_text granite_docling inkling2 inkling2_text internlm3 iquestcoder lfm3 lfm3_vl",
}
"""First release whose last patch knows them; "4.30" means that or earlier."""
_LAST: Mapping[str, str] = {
    "4.57": "mega open-llama qdqbert speech_to_text_2 transfo-xl xlm-prophetnet",
    "5.5": "code_llama gpt-sw3",
}
"""Last release that knows them, where the newest does not."""
_RECURRENT = frozenset(
    name
    for line in (
        "bailing_hybrid bamba falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear lfm2 lfm2_moe lfm3",
        "mamba mamba2 nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next",
        "qwen4_exp recurrent_gemma rwkv xlstm zamba zamba2",
    )
    for name in line.split()
)
_PLAIN_TORCH_SINCE: Mapping[str, str] = {"jamba": "5.15", "zamba": "5.15"}
"""Releases from which no compiled kernels are needed, where that is later than the type itself."""


def known_types() -> set[str]:
    """Every type of the table."""
    return set(_FIRST)


def first_release(model_type: str) -> str:
    """The minor release of transformers that brought the type; empty where none is known."""
    return _FIRST.get(model_type, "")


def last_release(model_type: str) -> str:
    """The last minor release that knows a type which later ones have dropped; empty where the newest knows it."""
    return _DROPPED.get(model_type, "")


def plain_torch_since(model_type: str) -> str:
    """For a type with recurrent layers (Mamba, linear attention): the first release that runs it without compiled
    kernels such as mamba-ssm and causal-conv1d. Empty for other types.
    """
    if model_type not in _RECURRENT:
        return ""
    return _PLAIN_TORCH_SINCE.get(model_type, first_release(model_type))


def _by_type(table: Mapping[str, str]) -> dict[str, str]:
    return {name: release for release, names in table.items() for name in names.split()}


_FIRST = _by_type(_SINCE)
_DROPPED = _by_type(_LAST)
