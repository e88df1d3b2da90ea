"""`environment: auto`: from a model's own files to the packages it needs, each with its reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.model_files import model_directory, read_json
from bainmarie.environments.needs import (
    ACCELERATE,
    BITSANDBYTES,
    KERNELS,
    PEFT,
    QUANTIZED,
    QUANTIZED_ELSEWHERE,
    TIMM,
    TIMM_PARTS,
    TOKENIZERS,
    TORCH,
    TRANSFORMERS,
)
from bainmarie.environments.remote_code import remote_code_reasons
from bainmarie.environments.spec import EnvironmentSpec, Reason, package_name
from bainmarie.environments.transformers_release import transformers_reasons
from bainmarie.environments.versions import unreleased
from bainmarie_protocol.versions import numbers

__all__ = ["ACCELERATE", "BITSANDBYTES", "PEFT", "TORCH", "TRANSFORMERS", "engine_needs", "infer"]

CONFIGURATION = "the configuration"
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
    reasons = _first_of_each(_reasons(base, [model for model in models if model.adapter]))
    packages = tuple(reason.requirement for reason in reasons if reason.requirement)
    return EnvironmentSpec(name="auto", packages=packages, reasons=reasons, needs=engine_needs(base.engine))


def _reasons(base: ModelSpec, adapters: Sequence[ModelSpec]) -> Iterator[Reason]:
    directory = model_directory(base.model, os.environ)
    config = _read(directory / "config.json") if directory else {}
    if base.base and not config:
        completing = model_directory(base.base, os.environ)
        config = _read(completing / "config.json") if completing else {}
    yield Reason(f"torch=={TORCH}", "the transformers engine computes with torch; this release is tested", "bainmarie")
    yield from transformers_reasons(base, directory, config)
    yield Reason("safetensors>=0.4.3", "weights are read from safetensors files", "bainmarie")
    if base.quantization in ("int8", "nf4", "fp4"):
        why = f"`quantization: {base.quantization}` of model {base.name}"
        yield from (Reason(package, why, CONFIGURATION) for package in QUANTIZED["bitsandbytes"])
    if directory:
        yield from _quantized(directory, config)
        yield from _tokenizer(directory)
        yield from _parts(directory, config)
        if base.trust_remote_code and "auto_map" in config:
            yield from remote_code_reasons(directory)
    yield from _gguf(base, directory)
    yield from _adapters(adapters)


def _quantized(directory: Path, config: Mapping[str, object]) -> Iterator[Reason]:
    stored, source = config.get("quantization_config"), "config.json"
    if isinstance(stored, dict):
        method = str(stored.get("quant_method") or "")
        if not method and (stored.get("load_in_4bit") or stored.get("load_in_8bit")):
            method = "bitsandbytes"
    else:
        source = next((name for name in QUANTIZED_ELSEWHERE if (directory / name).is_file()), "")
        if not source:
            return
        method = QUANTIZED_ELSEWHERE[source]
    needed = QUANTIZED.get(method, (f"accelerate=={ACCELERATE}",))
    unknown = "" if method in QUANTIZED else ", which no row of the table knows"
    why = f"the checkpoint is quantized with {method or 'no method that it names'}{unknown}"
    yield from (Reason(package, why, source) for package in needed)


def _tokenizer(directory: Path) -> Iterator[Reason]:
    if (directory / "tokenizer.json").is_file():
        return
    for pattern, packages in TOKENIZERS:
        if file := next(directory.glob(pattern), None):
            why = f"{file.name} is the tokenizer; there is no tokenizer.json"
            yield from (Reason(package, why, file.name) for package in packages)


def _parts(directory: Path, config: Mapping[str, object]) -> Iterator[Reason]:
    """Vision towers and backbones; wishes about attention."""
    if "vision_config" in config or (directory / "preprocessor_config.json").is_file():
        source = "config.json" if "vision_config" in config else "preprocessor_config.json"
        yield Reason("pillow", "the model also takes images; its processor imports Pillow", source)
    for name, part in config.items():
        if isinstance(part, dict) and (part.get("model_type") in TIMM_PARTS or part.get("use_timm_backbone")):
            yield Reason(TIMM, f"{name} is computed by timm", "config.json")
    wish = str(config.get("_attn_implementation") or config.get("attn_implementation") or "")
    if wish.startswith("flash_attention") or "/" in wish:
        yield Reason(KERNELS, f"{wish} comes compiled from the hub instead of being built here", "config.json")


def _gguf(base: ModelSpec, directory: Path | None) -> Iterator[Reason]:
    file = Path(base.model) if base.model.endswith(".gguf") else None
    if directory and not (directory / "config.json").is_file():
        file = next(directory.glob("*.gguf"), None)
    if file is not None:
        yield Reason("gguf>=0.10.0", "weights are a GGUF file", file.name)


def _adapters(models: Sequence[ModelSpec]) -> Iterator[Reason]:
    """One peft for all adapters of the worker: the tested one, or a newer one if an adapter was saved with it."""
    if not models:
        return
    yield _peft(
        {m.name: str(_read(Path(str(m.adapter)) / "adapter_config.json").get("peft_version") or "") for m in models}
    )
    yield Reason(f"accelerate=={ACCELERATE}", "peft imports it", "bainmarie")


def _peft(saved: Mapping[str, str]) -> Reason:
    """`saved`: by model with an adapter, the version that saved it."""
    newer = [name for name in saved if numbers(saved[name]) > numbers(PEFT)]
    if not newer:
        return Reason(f"peft=={PEFT}", f"model {next(iter(saved))} has an adapter", "adapter_config.json")
    name = max(newer, key=lambda name: (not unreleased(saved[name]), numbers(saved[name])))
    why = f"model {name} has an adapter, saved with peft {saved[name]}"
    if unreleased(saved[name]):
        return Reason(f"peft>={PEFT}", f"{why}, which may not be out yet: the newest there is", "adapter_config.json")
    return Reason(f"peft>={'.'.join(map(str, numbers(saved[name])))}", why, "adapter_config.json")


def _first_of_each(reasons: Iterator[Reason]) -> tuple[Reason, ...]:
    """For each package its first reason; every remark."""
    kept: dict[str, Reason] = {}
    for reason in reasons:
        kept.setdefault(package_name(reason.requirement) or reason.why, reason)
    return tuple(kept.values())


def _read(path: Path) -> dict[str, object]:
    """A JSON object; {} for a file that is missing or no JSON, which `check_model_files` reports."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
