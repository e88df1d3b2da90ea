"""Is a PEFT adapter directory complete, and does it fit its base? Answered from file names and tensor shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.model_files import UnreadableTensors, read_json, tensor_shapes
from bainmarie.environments.training_folders import adapter_folder
from bainmarie.errors import LoadFailed

Shapes = Mapping[str, tuple[int, ...]]

_WEIGHTS = "adapter_model.safetensors"
_SAFE = ".safetensors"
_LORA = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>A|B)(?:\.[^.]+)?\.weight$")
_NUMBER = re.compile(r"\.\d+(?=\.)")
_TURNED = ("gpt2", "openai-gpt")
"""Families whose linear weights are stored as (in, out); peft notices that by itself."""
_HALVES = {".lora_A": ".lora_B", ".lora_B": ".lora_A"}
_HEADS = ("lm_head", "embed_out")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "embeddings", "word_embeddings")
"""An output layer that is tied to the embeddings has no tensor of its own."""
_OUTER = re.compile(r"^(?:model\.|language_model\.|text_model\.|transformer\.)+")


def check_adapter(spec: ModelSpec, directory: Path, config: Mapping[str, object], base: Shapes | None) -> None:
    """LoadFailed (adapter_incomplete, adapter_mismatch) where the adapter cannot work on a base with these tensors.

    `config` is the base's config.json. `base` None, a base that is quantized on disk, pickled adapters, and adapters
    that are not LoRA are not compared.
    """
    directory = adapter_folder(directory)
    settings = _settings(spec, directory)
    weights = _weights(spec, directory)
    if weights.suffix != _SAFE:
        return
    try:
        adapter = tensor_shapes(weights)
    except UnreadableTensors as error:
        raise _incomplete(spec, f"{weights} {error}", "Copy or download it again.") from error
    _check_halves(spec, weights, adapter)
    if base is None or "quantization_config" in config or settings.get("peft_type") != "LORA":
        return
    turned = bool(settings.get("fan_in_fan_out")) or config.get("model_type") in _TURNED
    _compare(spec, settings, adapter, base, turned)


def _check_halves(spec: ModelSpec, file: Path, adapter: Shapes) -> None:
    halves = ((name, half) for name in adapter for half in _HALVES if half in name)
    missing = sorted({name.replace(half, _HALVES[half]) for name, half in halves} - adapter.keys())
    if missing:
        text = f"{file} lacks {len(missing)} tensors, such as {missing[0]}"
        raise _incomplete(spec, text, "Copy it again, or save it again with `save_pretrained`.")


def _settings(spec: ModelSpec, directory: Path) -> dict[str, object]:
    if not directory.is_dir():
        hint = f"Correct `models: {spec.name}: adapter:` in the configuration."
        raise _incomplete(spec, f"the adapter directory {directory} does not exist", hint)
    file = directory / "adapter_config.json"
    if not file.is_file():
        if (directory / "config.json").is_file():
            hint = f"This is a whole model. Configure it as `model: {directory}` without `adapter:`."
        else:
            hint = _elsewhere(directory, "adapter_config.json") or "Give the folder that `save_pretrained` wrote."
        raise _incomplete(spec, f"the adapter directory {directory} has no adapter_config.json", hint)
    try:
        return read_json(file)
    except ValueError as error:
        raise _incomplete(spec, f"{file} is not valid JSON: {error}", "Copy or download it again.") from error


def _weights(spec: ModelSpec, directory: Path) -> Path:
    file = directory / _WEIGHTS
    if file.is_file():
        return file
    pickled = directory / "adapter_model.bin"
    if pickled.is_file() and spec.allow_pickle:
        return pickled
    if pickled.is_file():
        text = (
            f"{directory} holds its weights only as a pickle (adapter_model.bin), which can run code when it is opened"
        )
        hint = (
            "Save it again with a current peft (`save_pretrained` writes safetensors), or, if you trust it, set "
            f"`models: {spec.name}: allow_pickle: true`."
        )
        raise _incomplete(spec, text, hint)
    hint = _elsewhere(directory, _WEIGHTS) or "Copy the file into the folder, or save the adapter again."
    what = "a training checkpoint without weights" if _has_trainer_state(directory) else "without its weights"
    raise _incomplete(spec, f"the adapter directory {directory} is {what}: there is no {_WEIGHTS}", hint)


def _elsewhere(directory: Path, name: str) -> str:
    """Folders near by that do have the file, as the configuration line for the newest; empty where there is none."""
    found = [path.parent for path in directory.glob(f"checkpoint-*/{name}")]
    found.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    if not found:
        return ""
    others = f" (also there: {', '.join(path.name for path in found[:-1])})" if found[:-1] else ""
    return f"Use `adapter: {found[-1]}`{others}."


def _has_trainer_state(directory: Path) -> bool:
    return any((directory / name).exists() for name in ("trainer_state.json", "optimizer.pt", "training_args.bin"))


def _compare(spec: ModelSpec, settings: Mapping[str, object], adapter: Shapes, base: Shapes, turned: bool) -> None:
    """Every low-rank pair against the weight it changes: A is (rank, in), B is (out, rank), the weight (out, in).

    Names are compared without their outer module, which differs between releases. A module that is missing counts only
    where the base has its like in other layers, or has none of the adapter's modules.
    """
    weights = {
        _OUTER.sub("", name.removesuffix(".weight")): shape for name, shape in base.items() if name.endswith(".weight")
    }
    embeddings = next((weights[name] for name in _EMBEDDINGS if name in weights), None)
    if embeddings is not None:
        weights = {**dict.fromkeys(_HEADS, embeddings), **weights}
    kinds = {_NUMBER.sub(".N", name) for name in weights}
    absent: list[str] = []
    met = 0
    for name, shape in adapter.items():
        match = _LORA.match(name)
        if match is None or len(shape) != 2:
            continue
        module = _OUTER.sub("", match["module"])
        weight = weights.get(module)
        if weight is None:
            absent.append(module)
            continue
        met += 1
        if len(weight) != 2:
            continue
        outgoing, incoming = reversed(weight) if turned and module not in _HEADS else weight
        have, want = (shape[1], incoming) if match["side"] == "A" else (shape[0], outgoing)
        if have != want:
            text = f"its tensor {name} has the shape {list(shape)}, but {module}.weight of the base has {list(weight)}"
            raise _mismatch(spec, settings, text)
    beyond = [module for module in absent if _NUMBER.sub(".N", module) in kinds]
    if beyond or (absent and not met):
        raise _mismatch(spec, settings, f"the base has no module {(beyond or absent)[0]}, which the adapter changes")


def _mismatch(spec: ModelSpec, settings: Mapping[str, object], text: str) -> LoadFailed:
    trained_on = settings.get("base_model_name_or_path")
    known = f"It was trained on {trained_on}. " if trained_on else ""
    return LoadFailed(
        f"model {spec.name!r}: the adapter {spec.adapter} does not fit the base {spec.model}: {text}",
        hint=f"{known}Set `models: {spec.name}: model:` to the base that the adapter was trained on.",
        code="adapter_mismatch",
    )


def _incomplete(spec: ModelSpec, text: str, hint: str) -> LoadFailed:
    return LoadFailed(f"model {spec.name!r}: {text}", hint=hint, code="adapter_incomplete")
