"""What a model will take before it was ever loaded: by its files, its quantization and its context."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bainmarie.catalog import ModelSpec
from bainmarie.workers.sizes import MAIN, Sizes

_OWN = 600 * 2**20
"""Bytes of main memory of an interpreter with torch and transformers, beside the weights."""
_BYTES_PER_WEIGHT = {"int8": 1.1, "int4": 0.6, "nf4": 0.6, "fp4": 0.6}
"""With the scales of the quantization."""
_DTYPE = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
_WANTED = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
_LONGEST_HEADER = 100 * 2**20
_CONTEXT = 8192
"""Tokens that are counted where the configuration has no `context`: few models are used to the end of theirs."""


def estimate(model: ModelSpec, accelerators: Sequence[str]) -> Sizes:
    """Weights, keys and values of one full context, and the program, where each will lie.

    `accelerators` are the places behind cuda:0, cuda:1, ... Empty where nothing is known: a command that says nothing
    of its `memory`, or weights that are not here yet. The configuration's `memory` goes before the files.
    """
    if model.memory is not None:
        size = model.memory
    else:
        weights = _weights(model)
        size = int(weights + _keys_values(model)) if weights else 0
    if not size:
        return {}
    places = _places(model, accelerators)
    own = _OWN if model.memory is None or places != (MAIN,) else 0
    found = {MAIN: own}
    for place in places:
        found[place] = found.get(place, 0) + size // len(places)
    return found


def _places(model: ModelSpec, accelerators: Sequence[str]) -> Sequence[str]:
    """Where the weights go. A torch that is built for the CPU alone is seen after the first load."""
    if model.engine != "transformers" or model.device in ("cpu", "mps") or not accelerators:
        return (MAIN,)
    if model.device_map is not None:
        return accelerators
    number = int(model.device.partition(":")[2] or 0)
    return accelerators[number : number + 1] or (MAIN,)


def _weights(model: ModelSpec) -> float:
    """By the checkpoint's own headers, in the wished quantization or dtype."""
    folder, weights = Path(model.model), 0.0
    if model.engine != "transformers" or not folder.is_dir():
        return weights
    for file in sorted(folder.glob("*.safetensors")):
        with suppress(OSError, ValueError, KeyError, struct.error):
            weights += sum(_held(tensor, model) for name, tensor in header(file).items() if name != "__metadata__")
    return weights


def _keys_values(model: ModelSpec) -> float:
    """Of one sequence that fills the context; 0 where the model's config.json does not tell."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        config = json.loads((Path(model.model) / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads
        context = model.context or min(config["max_position_embeddings"], _CONTEXT)
        each = 2 * (config.get("num_key_value_heads") or heads) * size
        return float(config["num_hidden_layers"] * each * context * _WANTED.get(model.dtype, 2.0))
    return 0.0


def header(file: Path) -> Mapping[str, dict[str, Any]]:
    """The table of a safetensors file: eight bytes of length, then JSON (github.com/huggingface/safetensors)."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > _LONGEST_HEADER:
            raise ValueError(f"{file}: a header of {length} bytes")
        return dict(json.loads(stream.read(length)))


def _held(tensor: Mapping[str, Any], model: ModelSpec) -> float:
    begin, end = tensor["data_offsets"]
    count = float(end - begin) / _DTYPE.get(tensor["dtype"], 1)
    matrix = len(tensor["shape"]) > 1
    if matrix and model.quantization in _BYTES_PER_WEIGHT:
        return count * _BYTES_PER_WEIGHT[model.quantization]
    return count * _WANTED[model.dtype] if model.dtype in _WANTED else float(end - begin)
