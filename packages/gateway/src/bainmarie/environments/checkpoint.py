"""Is a model directory fit to load? Answered from its files alone, before any environment is built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.adapter_files import check_adapter
from bainmarie.environments.model_files import (
    UnreadableTensors,
    is_hub_id,
    model_directory,
    read_json,
    tensor_shapes,
)
from bainmarie.environments.training_folders import lacks_config, named_bases
from bainmarie.errors import LoadFailed

_SAFE = "model.safetensors"
_PICKLED = "pytorch_model.bin"
_INDEX = ".index.json"
_MOST_NAMED = 6


def check_model_files(spec: ModelSpec) -> None:
    """LoadFailed where the base's or the adapter's files cannot work; nothing where they can, or cannot be judged.

    Codes: model_not_found, model_incomplete, adapter_incomplete, adapter_mismatch. A hub id that is not in the cache
    is not judged, nor are engines that read no checkpoint.
    """
    if spec.engine != "transformers":
        return
    directory = model_directory(spec.model, os.environ)
    shapes: dict[str, tuple[int, ...]] | None = None
    config: dict[str, object] = {}
    if directory is None:
        if not is_hub_id(spec.model):
            raise _not_a_directory(spec)
    elif not is_hub_id(spec.model):
        config = _config(spec, directory)
        shapes = _weights(spec, directory)
    else:
        shapes = _cached_weights(directory)
    if spec.adapter is not None:
        check_adapter(spec, Path(spec.adapter), config, shapes)


def _not_a_directory(spec: ModelSpec) -> LoadFailed:
    path = Path(spec.model)
    if path.suffix == ".gguf":
        return _incomplete(spec, f"{path} is a GGUF file", "The transformers engine reads folders with safetensors.")
    what = "is a file, not a directory" if path.exists() else "does not exist"
    return LoadFailed(
        f"model {spec.name!r}: the directory {path} {what}",
        hint=f"Correct `models: {spec.name}: model:` in the configuration.",
        code="model_not_found",
    )


def _config(spec: ModelSpec, directory: Path) -> dict[str, object]:
    file = directory / "config.json"
    if spec.base and not file.is_file():
        return _config_of_base(spec)
    if not file.is_file():
        raise _incomplete(
            spec, f"{directory} has no config.json; found there: {_listing(directory)}", _advice(directory)
        )
    return _read_config(spec, file)


def _config_of_base(spec: ModelSpec) -> dict[str, object]:
    """config.json of the base that completes the model; {} where the base is on the hub and not in the cache yet."""
    directory = model_directory(spec.base, os.environ)
    if directory is None and is_hub_id(spec.base):
        return {}
    if directory is None or not (directory / "config.json").is_file():
        text = f"{spec.model} has no config.json, and neither has its base {spec.base}"
        raise _incomplete(spec, text, "Set `base:` to the model that it was trained from.")
    return _read_config(spec, directory / "config.json")


def _read_config(spec: ModelSpec, file: Path) -> dict[str, object]:
    try:
        return read_json(file)
    except ValueError as error:
        raise _incomplete(spec, f"{file} is not valid JSON: {error}", "Copy or download it again.") from error


def _advice(directory: Path) -> str:
    """What a directory without config.json is, and the configuration line that would be right."""
    if (directory / "adapter_config.json").is_file():
        return _adapter_advice(directory)
    if lacks_config(directory):
        return (
            "Neither README.md nor adapter_config.json there or above names a base to take it from. Name one with "
            "`base:`, or copy its config.json into the folder."
        )
    checkpoints = [path for path in directory.glob("checkpoint-*") if (path / "config.json").is_file()]
    if checkpoints:
        newest = max(checkpoints, key=lambda path: path.stat().st_mtime)
        return f"This is the folder of a training run. Use one of its checkpoints: `model: {newest}`."
    adapters = [path for path in directory.glob("checkpoint-*") if (path / "adapter_config.json").is_file()]
    if adapters:
        return f"This is the folder of an adapter's training run. Use `model: BASE` with `adapter: {adapters[-1]}`."
    if is_training_checkpoint(directory):
        return f"This is a training checkpoint without a model. Look in its parent: {directory.parent}."
    inner = [path.parent for path in directory.glob("*/config.json")]
    if inner:
        return f"A model lies one folder deeper: `model: {inner[0]}`."
    if any(directory.glob("*.gguf")):
        return "GGUF files need another engine; the transformers engine reads folders with config.json and safetensors."
    return "Give a folder in the Hugging Face format: config.json, *.safetensors, tokenizer files."


def _adapter_advice(directory: Path) -> str:
    """For an adapter given as a model whose base could not be found by the names in its files."""
    names = list(dict.fromkeys(named_bases(directory)))
    how = f"Configure it as `model: BASE` with `adapter: {directory}`."
    if names:
        return f"This is an adapter on {' or '.join(names)}, which is no directory here and no hub id. {how}"
    return f"This is an adapter, and neither its adapter_config.json nor its README.md names the base. {how}"


def is_training_checkpoint(directory: Path) -> bool:
    """Whether a trainer's state lies there."""
    names = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "training_args.bin", "global_step*")
    return any(any(directory.glob(name)) for name in names)


def _weights(spec: ModelSpec, directory: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes of all tensors, None of pickled ones. LoadFailed where a file of the weights is missing or cut short."""
    single = _SAFE if _has(directory, _SAFE) or not (spec.allow_pickle and _has(directory, _PICKLED)) else _PICKLED
    index = directory / (single + _INDEX)
    placed: Mapping[str, str] = {}
    if index.is_file():
        placed = _placed(spec, index)
        shards = sorted(set(placed.values()))
        missing = [name for name in shards if not (directory / name).is_file()]
        if missing:
            named = ", ".join(missing[:_MOST_NAMED])
            text = f"{len(missing)} of {len(shards)} weight files that {index} names are missing: {named}"
            raise _incomplete(spec, text, "Copy or download them into the folder.")
    else:
        shards = [single]
        if not (directory / single).is_file():
            raise _incomplete(spec, *_no_weights(spec, directory))
    if single == _PICKLED:
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    for name in shards:
        try:
            held = tensor_shapes(directory / name)
        except UnreadableTensors as error:
            raise _incomplete(spec, f"{directory / name} {error}", "Copy or download it again.") from error
        if absent := [tensor for tensor, file in placed.items() if file == name and tensor not in held]:
            text = f"{directory / name} lacks {len(absent)} of the tensors that {index.name} places in it: {absent[0]}"
            raise _incomplete(spec, text, "Copy or download it again, and the index with it.")
        shapes |= held
    return shapes


def _placed(spec: ModelSpec, index: Path) -> dict[str, str]:
    """File by tensor name."""
    try:
        names = read_json(index)["weight_map"]
        assert isinstance(names, dict)
        return {str(tensor): str(file) for tensor, file in names.items()}
    except (ValueError, LookupError, AssertionError) as error:
        raise _incomplete(spec, f"{index} is no index of weight files: {error}", "Download it again.") from error


def _has(directory: Path, single: str) -> bool:
    return any((directory / name).is_file() for name in (single, single + _INDEX))


def _no_weights(spec: ModelSpec, directory: Path) -> tuple[str, str]:
    if _has(directory, _PICKLED):
        text = (
            f"{directory} holds its weights only as a pickle (pytorch_model.bin), which can run code when it is opened"
        )
        return (
            text,
            "Convert it once to safetensors (`model.save_pretrained(folder)` with transformers 5) and use that; or, if "
            f"you trust it, set `models: {spec.name}: allow_pickle: true`.",
        )
    text = f"{directory} has no weights (model.safetensors); found there: {_listing(directory)}"
    return text, "Download the weights into the folder, or save the model again with `save_pretrained`."


def _cached_weights(directory: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a snapshot in the hub cache, which may hold only some files; None where not all are there."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        index = read_json(directory / "model.safetensors.index.json").get("weight_map")
        names = sorted({str(name) for name in index.values()}) if isinstance(index, dict) else ["model.safetensors"]
        for name in names:
            shapes |= tensor_shapes(directory / name)
    except (OSError, ValueError, UnreadableTensors):
        return None  # what is missing is downloaded when it loads
    return shapes


def _listing(directory: Path) -> str:
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in directory.iterdir())
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}" if names else "nothing"


def _incomplete(spec: ModelSpec, text: str, hint: str) -> LoadFailed:
    return LoadFailed(f"model {spec.name!r}: {text}", hint=hint, code="model_incomplete")
