"""The table behind `environment: auto`: which packages read what a model's files hold.

Read from the messages and version checks of transformers 5.23. A new quantization, tokenizer or import is one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TORCH = "2.13.0"
TRANSFORMERS = "5.23.0"
PEFT = "0.21.2"
ACCELERATE = "1.15.0"
BITSANDBYTES = "0.50.2"
"""The releases that this release of bainmarie is tested with."""
OLDEST_TRANSFORMERS = "4.46"
"""The oldest minor release that works with that torch and that peft."""

_ACCELERATE = f"accelerate=={ACCELERATE}"
_GPTQMODEL = "gptqmodel>=5"
"""Earlier ones ask torch, which is not there yet, how they are to be built; a resolver takes them if it may."""
KERNELS = "kernels>=0.18.2,<0.19"
"""Compiled kernels from the hub, such as flash attention: nothing is built on this machine."""

QUANTIZED: Mapping[str, tuple[str, ...]] = {
    "aqlm": ("aqlm[cpu,gpu]", _ACCELERATE),
    "auto-round": ("auto-round>=0.5", _ACCELERATE),
    "awq": (_GPTQMODEL, _ACCELERATE),
    "bitnet": (_ACCELERATE,),
    "bitsandbytes": (f"bitsandbytes=={BITSANDBYTES}", _ACCELERATE),
    "compressed-tensors": ("compressed-tensors>=0.15.0", _ACCELERATE),
    "eetq": (KERNELS, _ACCELERATE),
    "fbgemm_fp8": ("fbgemm-gpu-genai", _ACCELERATE),
    "fp8": (KERNELS, _ACCELERATE),
    "fp_quant": ("fp_quant", _ACCELERATE),
    "gptq": (_GPTQMODEL, "optimum", _ACCELERATE),
    "higgs": ("flute-kernel>=0.3.0", "fast_hadamard_transform", _ACCELERATE),
    "hqq": ("hqq>=0.2.1", _ACCELERATE),
    "intel/auto-round": ("auto-round>=0.5", _ACCELERATE),
    "mxfp4": (KERNELS, _ACCELERATE),
    "mxfp8": (KERNELS, _ACCELERATE),
    "nvfp4": (KERNELS, _ACCELERATE),
    "quanto": ("optimum-quanto", _ACCELERATE),
    "quark": ("amd-quark", _ACCELERATE),
    "spqr": ("spqr_quant[gpu]", _ACCELERATE),
    "torchao": ("torchao>=0.15.0", _ACCELERATE),
    "vptq": ("vptq>=0.0.4", _ACCELERATE),
}
"""By config.json's quantization_config.quant_method: what reads such a checkpoint."""
QUANTIZED_ELSEWHERE: Mapping[str, str] = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files of older tools that say how a checkpoint is quantized where config.json does not."""

TOKENIZERS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("tokenizer.model", ("sentencepiece", "protobuf")),
    ("spiece.model", ("sentencepiece", "protobuf")),
    ("sentencepiece.bpe.model", ("sentencepiece", "protobuf")),
    ("*.spm", ("sentencepiece", "protobuf")),
    ("tekken.json", ("mistral-common>=1.11.5", "tiktoken")),
    ("*.tiktoken", ("tiktoken",)),
    ("tiktoken.model", ("tiktoken",)),
)
"""By file in the model's directory, where there is no tokenizer.json that makes the others unnecessary."""

IMPORTS: Mapping[str, str] = {
    "PIL": "pillow",
    "av": "av",
    "causal_conv1d": "causal-conv1d",
    "cv2": "opencv-python-headless",
    "decord": "decord",
    "einops": "einops",
    "fla": "flash-linear-attention",
    "librosa": "librosa",
    "mamba_ssm": "mamba-ssm",
    "matplotlib": "matplotlib",
    "mistral_common": "mistral-common",
    "open_clip": "open_clip_torch",
    "pandas": "pandas",
    "peft": f"peft=={PEFT}",
    "requests": "requests",
    "rotary_embedding_torch": "rotary-embedding-torch",
    "scipy": "scipy",
    "sentencepiece": "sentencepiece",
    "setuptools": "setuptools",
    "sklearn": "scikit-learn",
    "soundfile": "soundfile",
    "tiktoken": "tiktoken",
    "timm": "timm",
    "torchaudio": "torchaudio",
    "torchvision": "torchvision",
    "transformers_stream_generator": "transformers_stream_generator",
    "triton": "triton",
    "xformers": "xformers",
}
"""By imported module: the package that holds it."""
ALWAYS_THERE = frozenset(
    name
    for line in (
        "accelerate filelock huggingface_hub jinja2 networkx numpy packaging regex safetensors sympy",
        "tokenizers torch tqdm transformers typing_extensions yaml",
    )
    for name in line.split()
)
"""Modules that come with torch and transformers."""
TIMM_PARTS = frozenset(("timm_wrapper", "timm_backbone", "gemma3n_vision"))
"""Types of a part of a model (vision tower, backbone) that timm computes."""
TIMM = "timm>=1.0.23"
