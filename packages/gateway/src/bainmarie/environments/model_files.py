"""Reading a model's own files: where they lie, their JSON, and the shapes in safetensors headers.

Standard library only. A safetensors file is: 8 bytes little-endian length n, n bytes of JSON
{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__"?}, then the tensors' bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

_LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
_LFS_POINTER = b"version https://git-lfs"


class UnreadableTensors(Exception):
    """A file that is no complete safetensors file; the text says what it is instead."""


def model_directory(model: str, environ: Mapping[str, str]) -> Path | None:
    """The directory of a model: its own, or for a hub id the newest snapshot in the Hugging Face cache, if any."""
    path = Path(model)
    if path.is_dir():
        return path
    if not is_hub_id(model):
        return None
    repository = _hub_cache(environ) / f"models--{model.replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except OSError:
        revision = ""
    if revision and (repository / "snapshots" / revision).is_dir():
        return repository / "snapshots" / revision
    snapshots = [path for path in repository.glob("snapshots/*") if path.is_dir()]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def is_hub_id(model: str) -> bool:
    """Whether the text is a hub id (`name` or `organization/name`) and not a path."""
    return (
        not Path(model).is_absolute()
        and not model.startswith((".", "~"))
        and model.count("/") <= 1
        and "\\" not in model
    )


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file; {} where there is no file. ValueError if it holds anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object")
    return data


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape by tensor name, from the header alone. UnreadableTensors if the file is cut short or no safetensors."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if (start + file.read(len(_LFS_POINTER)))[: len(_LFS_POINTER)] == _LFS_POINTER:
            raise UnreadableTensors("is a Git LFS pointer, not the file itself (`git lfs pull` fetches it)")
        if len(start) < 8:
            raise UnreadableTensors(f"is cut short ({size} bytes)")
        length = struct.unpack("<Q", start)[0]
        if not 2 <= length <= _LARGEST_HEADER:
            raise UnreadableTensors("is no safetensors file")
        file.seek(8)
        header = file.read(length)
    try:
        entries = json.loads(header)
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        cut = len(header) < length
        raise UnreadableTensors(f"is cut short ({size} bytes)" if cut else "is no safetensors file") from None
    if size < 8 + length + end:
        raise UnreadableTensors(f"is cut short: {size} of {8 + length + end} bytes")
    return shapes


def _hub_cache(environ: Mapping[str, str]) -> Path:
    """As huggingface_hub finds it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return Path(environ[name]).expanduser()
    if environ.get("HF_HOME"):
        return Path(environ["HF_HOME"]).expanduser() / "hub"
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(cache) / "huggingface" / "hub"
