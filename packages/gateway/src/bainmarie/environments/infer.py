"""`environment: auto`: from a model's own files to the packages it needs, each with its reason."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.model_files import model_directory, read_json
from bainmarie.environments.spec import EnvironmentSpec

TORCH = "2.13.0"
TRANSFORMERS = "5.23.0"
PEFT = "0.21.2"
ACCELERATE = "1.15.0"
BITSANDBYTES = "0.50.2"
"""The releases that this release of bainmarie is tested with."""

_QUANTIZED: Mapping[str, tuple[str, ...]] = {
    "bitsandbytes": (f"bitsandbytes=={BITSANDBYTES}", f"accelerate=={ACCELERATE}"),
    "gptq": ("gptqmodel", "optimum", f"accelerate=={ACCELERATE}"),
    "awq": ("gptqmodel", f"accelerate=={ACCELERATE}"),
    "compressed-tensors": ("compressed-tensors", f"accelerate=={ACCELERATE}"),
    "torchao": ("torchao", f"accelerate=={ACCELERATE}"),
    "quanto": ("optimum-quanto", f"accelerate=={ACCELERATE}"),
    "mxfp4": ("kernels", f"accelerate=={ACCELERATE}"),
    "fp8": ("kernels", f"accelerate=={ACCELERATE}"),
}
"""By config.json's quantization_config.quant_method: what reads such a checkpoint."""
_TOKENIZERS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("tokenizer.model", ("sentencepiece", "protobuf")),
    ("spiece.model", ("sentencepiece", "protobuf")),
    ("tekken.json", ("mistral-common", "tiktoken")),
    ("*.tiktoken", ("tiktoken",)),
)
"""By file in the model's directory, where there is no tokenizer.json that makes the others unnecessary."""
_REMOTE_IMPORTS = ("einops", "timm", "open_clip", "tiktoken", "sentencepiece", "scipy")
_PACKAGE_OF = {"open_clip": "open_clip_torch"}
_IMPORT = re.compile(r"^\s*(?:from|import)\s+(\w+)", re.MULTILINE)
_RELEASE = re.compile(r"\d+(?:\.\d+)*")

_Reasons = dict[str, str]


_ENGINE_NEEDS: Mapping[str, tuple[str, ...]] = {"transformers": ("torch", "transformers")}


def engine_needs(engine: str) -> tuple[str, ...]:
    """What an engine imports in any environment, for the `needs` of a spec that the configuration names."""
    return _ENGINE_NEEDS.get(engine, ())


def infer(models: Sequence[ModelSpec]) -> EnvironmentSpec:
    """The environment of one worker: a base and the adapters on it.

    Reads only files that are there: the model's directory, or a hub id's snapshot in the cache; without one it says
    that it guessed. Each package has one reason in `reasons`. The fake engine needs no packages of a model.
    """
    base = models[0]
    if base.engine != "transformers":
        return EnvironmentSpec(name="auto")
    reasons: _Reasons = {}
    directory = model_directory(base.model, os.environ)
    config = _read(directory / "config.json") if directory else {}
    if base.base and not config:
        completing = model_directory(base.base, os.environ)
        config = _read(completing / "config.json") if completing else {}
    _add_core(reasons, base, directory, config)
    _add_quantization(reasons, base, config)
    if directory:
        _add_tokenizer(reasons, directory)
        _add_remote_code(reasons, base, directory, config)
    _add_adapters(reasons, [model for model in models if model.adapter])
    return EnvironmentSpec(
        name="auto", packages=tuple(reasons), reasons=tuple(reasons.items()), needs=engine_needs(base.engine)
    )


def _add_core(reasons: _Reasons, base: ModelSpec, directory: Path | None, config: Mapping[str, object]) -> None:
    reasons[f"torch=={TORCH}"] = "the transformers engine computes with torch; this release is tested"
    kind = config.get("model_type")
    saved_with = str(config.get("transformers_version") or "")
    if directory is None:
        why = f"{base.model} is not in the cache yet, so its files say nothing: the newest tested release"
    elif not kind:
        why = f"{directory} says no model_type: the newest tested release"
    else:
        why = f"config.json: model_type {kind}; the newest tested release reads what earlier ones wrote"
    if _numbers(saved_with) > _numbers(TRANSFORMERS):
        release = _RELEASE.match(saved_with)
        assert release is not None
        reasons[f"transformers>={release[0]}"] = f"config.json: saved with transformers {saved_with}"
    else:
        reasons[f"transformers=={TRANSFORMERS}"] = why
    reasons["safetensors>=0.4.3"] = "weights are read from safetensors files"


def _add_quantization(reasons: _Reasons, base: ModelSpec, config: Mapping[str, object]) -> None:
    if base.quantization in ("int8", "nf4", "fp4"):
        _add(reasons, _QUANTIZED["bitsandbytes"], f"`quantization: {base.quantization}` in the configuration")
    stored = config.get("quantization_config")
    if isinstance(stored, dict):
        method = str(stored.get("quant_method") or "")
        if not method and (stored.get("load_in_4bit") or stored.get("load_in_8bit")):
            method = "bitsandbytes"
        needed = _QUANTIZED.get(method, (f"accelerate=={ACCELERATE}",))
        _add(reasons, needed, f"config.json: quantization_config says {method or 'no method'}")


def _add_tokenizer(reasons: _Reasons, directory: Path) -> None:
    if (directory / "tokenizer.json").is_file():
        return
    for pattern, packages in _TOKENIZERS:
        if file := next(directory.glob(pattern), None):
            _add(reasons, packages, f"{file.name} is the tokenizer; there is no tokenizer.json")


def _add_remote_code(reasons: _Reasons, base: ModelSpec, directory: Path, config: Mapping[str, object]) -> None:
    """What the model's own code imports, if that code may run at all."""
    if not base.trust_remote_code or "auto_map" not in config:
        return
    for file in sorted(directory.glob("*.py")):
        imported = set(_IMPORT.findall(file.read_text(encoding="utf-8", errors="replace")))
        for name in _REMOTE_IMPORTS:
            if name in imported:
                _add(reasons, (_PACKAGE_OF.get(name, name),), f"{file.name}, the model's own code, imports {name}")


def _add_adapters(reasons: _Reasons, models: Iterable[ModelSpec]) -> None:
    """One peft for all adapters of the worker: the tested one, or a newer one if an adapter was saved with it."""
    newest, why = "", ""
    for model in models:
        saved_with = str(_read(Path(str(model.adapter)) / "adapter_config.json").get("peft_version") or "")
        if not why or _numbers(saved_with) > _numbers(newest):
            newest, why = saved_with, f"model {model.name} has an adapter"
    release = _RELEASE.match(newest)
    if release and _numbers(newest) > _numbers(PEFT):
        reasons[f"peft>={release[0]}"] = f"{why}, saved with peft {newest}"
    elif why:
        reasons[f"peft=={PEFT}"] = why
    if why:
        _add(reasons, (f"accelerate=={ACCELERATE}",), "peft imports it")


def _add(reasons: _Reasons, packages: Iterable[str], why: str) -> None:
    for package in packages:
        reasons.setdefault(package, why)


def _read(path: Path) -> dict[str, object]:
    """A JSON object; {} for a file that is missing or no JSON, which `check_model_files` reports."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version; () where there are none."""
    match = _RELEASE.match(version)
    return tuple(map(int, match[0].split("."))) if match else ()
