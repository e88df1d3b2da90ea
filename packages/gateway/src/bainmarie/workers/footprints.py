"""How much memory a worker takes and how long it loads: estimated before the first load, remembered after it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bainmarie.catalog import ModelSpec

_OWN = 600 * 2**20
"""Bytes of an interpreter with torch and transformers, beside the weights."""
_BYTES_PER_WEIGHT = {"int8": 1.1, "nf4": 0.6, "fp4": 0.6}
"""With the scales of the quantization."""
_DTYPE = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
_WANTED = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
_LONGEST_HEADER = 100 * 2**20


@dataclass(frozen=True)
class Footprint:
    """Of one worker."""

    bytes: int
    load_seconds: float = 0.0
    measured: bool = False
    """False for an estimate; 0 bytes then say that nothing is known."""


class Footprints:
    """What was measured, in one file of the home."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Footprint] = {}
        with suppress(OSError, ValueError, TypeError):
            data = json.loads(file.read_text())
            self._known = {key: Footprint(**value) for key, value in data.items()}

    def of(self, model: ModelSpec) -> Footprint:
        """What is remembered of the model's worker; else the configuration's word; else an estimate. Blocking."""
        if model.worker_key in self._known:
            return self._known[model.worker_key]
        return Footprint(model.memory if model.memory is not None else estimate(model))

    def remember(self, key: str, size: int, load_seconds: float) -> None:
        """Keeps the largest size of the latest life; nothing where none was measured."""
        if size:
            self._known[key] = Footprint(size, round(load_seconds, 2), measured=True)
            with suppress(OSError):  # what is lost is an estimate's precision
                self._write(json.dumps({k: asdict(v) for k, v in self._known.items()}, indent=1))

    def _write(self, text: str) -> None:
        """Unlike `write_synced` it waits for no disk: the event loop calls it whenever a worker ends."""
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._file)


def estimate(model: ModelSpec) -> int:
    """Bytes of weights by the checkpoint's own headers, in the wished quantization or dtype, and of the program.

    0 where nothing is known: a command, or weights that are not here yet.
    """
    if model.engine != "transformers":
        return 0
    weights = 0.0
    for file in sorted(Path(model.model).glob("*.safetensors")) if Path(model.model).is_dir() else ():
        with suppress(OSError, ValueError, KeyError, struct.error):
            weights += sum(_held(tensor, model) for name, tensor in header(file).items() if name != "__metadata__")
    return int(weights + _OWN) if weights else 0


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
