"""What a model's or an adapter's directory holds, judged before anything of it is loaded.

The headers of safetensors files say every tensor's name, shape and place, so a cut file is found in a millisecond.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from typing import Any

from bainmarie_worker.errors import LoadError

_SINGLE = "model.safetensors"
_PICKLED = "pytorch_model.bin"
_INDEX = ".index.json"
_ADAPTER_PICKLED = "adapter_model.bin"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file, from its header."""

    name: str
    shape: tuple[int, ...]
    size: int
    """In bytes."""


def read_json(path: str) -> dict[str, Any]:
    """A JSON object. LoadError `model_incomplete` names the file that is none."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise LoadError("model_incomplete", f"{path} cannot be read: {error}", "Copy the model again.") from error
    if not isinstance(data, dict):
        raise LoadError("model_incomplete", f"{path} is no JSON object", "Copy the model again.")
    return data


def config_directory(directory: str, base: str | None) -> str:
    """Where config.json lies: with the weights, else with the base that completes them. LoadError where in neither."""
    for place in filter(None, (directory, base)):
        if os.path.isfile(os.path.join(place, "config.json")):
            return place
    raise _no_config(directory, base)


def model_config(directory: str) -> dict[str, Any]:
    """config.json of a model. LoadError where there is none that can be read."""
    return read_json(os.path.join(config_directory(directory, None), "config.json"))


def _no_config(directory: str, base: str | None) -> LoadError:
    """Says what the directory is instead, where that can be seen."""
    names = os.listdir(directory)
    if "adapter_config.json" in names:
        hint = "This is an adapter: set `model:` to its base model and `adapter:` to this directory."
    elif any(name.endswith(".gguf") for name in names):
        hint = "GGUF files need another engine: this one reads the Hugging Face format."
    elif inner := sorted(n for n in names if os.path.isfile(os.path.join(directory, n, "config.json"))):
        hint = f"A model lies one level below: {os.path.join(directory, inner[-1])}"
    else:
        hint = "Set `model:` to the directory that save_pretrained wrote, or to a hub id."
    also = f" (also in {base})" if base else ""
    return LoadError("model_incomplete", f"{directory} is no complete model: config.json is missing{also}", hint)


def weight_files(directory: str, allow_pickle: bool = False) -> list[str]:
    """The model's weight files in order, safetensors proven whole. LoadError names what is missing or cut.

    Pickled files only where they are allowed and no safe ones are there.
    """
    single = _SINGLE
    if allow_pickle and not _has(directory, _SINGLE) and _has(directory, _PICKLED):
        single = _PICKLED
    index = os.path.join(directory, single + _INDEX)
    if os.path.isfile(index):
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
    elif os.path.isfile(os.path.join(directory, single)):
        shards = [single]
    else:
        raise _no_weights(directory)
    paths = [os.path.join(directory, shard) for shard in shards]
    missing = [shard for shard, path in zip(shards, paths) if not os.path.isfile(path)]
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise LoadError(
            "model_incomplete",
            f"{directory} lacks {len(missing)} of {len(shards)} weight files that {single}{_INDEX} names: {names}",
            "Copy or download the missing files.",
        )
    if single == _SINGLE:
        for path in paths:
            tensors(path)
    return paths


def tensors(path: str) -> list[Tensor]:
    """The tensors of a safetensors file, from its header alone. LoadError if the file is cut or none of its kind."""
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        found = [_tensor(name, entry) for name, entry in header.items()]
    except (struct.error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise LoadError(
            "model_incomplete", f"{path} is no safetensors file: {error}", "Copy or download it again."
        ) from error
    if size < end:
        raise LoadError(
            "model_incomplete", f"{path} is cut: {size} of {end} bytes are there", "Copy or download it again."
        )
    return found


def _tensor(name: str, entry: dict[str, Any]) -> Tensor:
    begin, end = entry["data_offsets"]
    return Tensor(name, tuple(entry["shape"]), end - begin)


def refuse_pickled(directory: str, wanted: str) -> None:
    """LoadError `pickled_weights` where weights exist only as pickles, which can run any code when they are read."""
    for name in os.listdir(directory):
        if name == _ADAPTER_PICKLED or (name.startswith("pytorch_model") and ".bin" in name):
            raise LoadError(
                "pickled_weights",
                f"{directory} has its weights only as {name}: pickled files can run any code and are not read",
                f"If you trust them, set `allow_pickle: true`, or load and save them once: that writes {wanted}.",
            )


def _has(directory: str, single: str) -> bool:
    """Whether there are weights in one file of that name or in several that its index lists."""
    return any(os.path.isfile(os.path.join(directory, name)) for name in (single, single + _INDEX))


def _no_weights(directory: str) -> LoadError:
    try:
        refuse_pickled(directory, _SINGLE)
    except LoadError as error:
        return error
    return LoadError(
        "model_incomplete",
        f"{directory} has a config.json but no weights: {_SINGLE} is missing",
        "Set `model:` to the directory that save_pretrained wrote.",
    )
