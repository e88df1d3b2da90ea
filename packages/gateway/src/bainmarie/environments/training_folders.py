"""A training run's output folder as the model that it is: an adapter with its base, a merge without config.json."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.model_files import is_hub_id, read_json

_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_MODEL_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "model.safetensors.index.json")
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)


def resolved(spec: ModelSpec) -> ModelSpec:
    """The model with `model`, `adapter` and `base` naming the folders that really hold them. Idempotent.

    - `model` is an adapter: it becomes `adapter`, and `model` the base that it names.
    - `adapter` is a folder of the run without the adapter: the parent or the only checkpoint that has it.
    - `model` has weights and no config.json: `base` becomes what can complete it.

    What the files do not tell stays as it is; `check_model_files` then says what is missing.
    """
    if spec.engine != "transformers":
        return spec
    if spec.adapter is None and (adapter := _as_adapter(Path(spec.model))) is not None:
        base = spec.base or named_base(adapter)
        if base:
            return resolved(replace(spec, model=base, adapter=str(adapter), base=""))
    if spec.adapter is not None:
        spec = replace(spec, adapter=str(adapter_folder(Path(spec.adapter))))
    if not spec.base and lacks_config(Path(spec.model)):
        return replace(spec, base=_completion(Path(spec.model)))
    return spec


def adapter_folder(folder: Path) -> Path:
    """Where this folder's adapter lies: there, in its parent, or in its only checkpoint; else the folder itself."""
    if has_adapter(folder) or not folder.is_dir():
        return folder
    if has_adapter(folder.parent) and not any((folder / name).is_file() for name in _ADAPTER_WEIGHTS):
        return folder.parent
    checkpoints = [path for path in folder.glob("checkpoint-*") if has_adapter(path)]
    return checkpoints[0] if len(checkpoints) == 1 else folder


def has_adapter(folder: Path) -> bool:
    """Whether a whole PEFT adapter lies there."""
    return (folder / _ADAPTER_CONFIG).is_file() and any((folder / name).is_file() for name in _ADAPTER_WEIGHTS)


def lacks_config(folder: Path) -> bool:
    """Whether there are a model's weights without the config.json that says how to read them."""
    return folder.is_dir() and not (folder / "config.json").is_file() and _has_model_weights(folder)


def named_base(folder: Path) -> str:
    """The base that an adapter's or a merge's files name: a directory that is there, or a hub id; else empty."""
    for name in named_bases(folder):
        if found := _located(name, folder):
            return found
    return ""


def named_bases(folder: Path) -> Iterator[str]:
    """Every base named by adapter_config.json or the front matter of README.md, of the folder, then of its parent."""
    for place in (folder, folder.parent):
        yield from _texts(_object(place / _ADAPTER_CONFIG).get("base_model_name_or_path"))
        yield from _texts(_front_matter(place / "README.md").get("base_model"))


def _as_adapter(folder: Path) -> Path | None:
    """The adapter that the folder is or leads to; None where it holds a model of its own, or neither."""
    if not folder.is_dir() or _has_model_weights(folder):
        return None
    found = adapter_folder(folder)
    return found if has_adapter(found) else None


def _completion(folder: Path) -> str:
    """What has the config.json that the folder lacks: the run's own folder above it, or the base that it names."""
    if (folder.parent / "config.json").is_file():
        return str(folder.parent)
    return named_base(folder)


def _has_model_weights(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in _MODEL_WEIGHTS)


def _located(name: str, folder: Path) -> str:
    """A directory of that name, seen from the adapter's folder or those above it; else the hub id; else empty."""
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() else [above / path for above in (folder, *list(folder.parents)[:3])]
    for place in places:
        if (place / "config.json").is_file():
            return os.path.normpath(place)
    return name if is_hub_id(name) else ""


def _front_matter(readme: Path) -> dict[str, object]:
    """The YAML between the two lines of dashes that a model card begins with; {} where there is none."""
    try:
        match = _FRONT_MATTER.match(readme.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}
    if match is None:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe").load(match[1])
    except YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def _object(file: Path) -> dict[str, object]:
    try:
        return read_json(file)
    except (OSError, ValueError):
        return {}


def _texts(value: object) -> Iterable[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text]
