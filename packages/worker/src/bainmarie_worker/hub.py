"""Where a model's files are: a directory as it is, or a hub id in the Hugging Face cache, downloaded if need be."""

from __future__ import annotations

import fnmatch
import os

from bainmarie_protocol import Progress
from bainmarie_worker.engine.engine import Report
from bainmarie_worker.errors import LoadError
from bainmarie_worker.hub_errors import meaning

_SMALL = ("*.json", "*.model", "*.jinja", "*.tiktoken", "*.txt", "*.py")
_SAFE = "*.safetensors"
_PICKLED = "*.bin"
"""Fetched only where they are allowed and there are no safe ones: many repositories still carry both."""


def locate(model: str, report: Report, *, weights: bool = True, allow_pickle: bool = False) -> str:
    """The directory of the model, or without `weights` of its small files.

    LoadError where it is neither there nor to be had; see `hub_errors`.
    """
    path = os.path.expanduser(model)
    if os.path.isdir(path):
        return path
    if os.path.isabs(path) or path.startswith((".", "~")) or path.count("/") > 1:
        what = "is a file, not a directory" if os.path.exists(path) else "does not exist"
        raise LoadError("model_not_found", f"the model directory {path} {what}", "Correct `model:` in bain.yaml.")
    wanted = [_SAFE] if weights else []
    found = _cached(model, wanted) or _cached(model, [_PICKLED] if weights and allow_pickle else wanted)
    if found is None:
        found = _download(model, [*_SMALL, *wanted], report)
        if weights and allow_pickle and not _has(found, _SAFE):
            found = _download(model, [*_SMALL, _PICKLED], report)
    return found


def _cached(model: str, wanted: list[str]) -> str | None:
    """The snapshot in the cache if it seems complete: a configuration and what is wanted."""
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(model, allow_patterns=[*_SMALL, *wanted], local_files_only=True)
    except (OSError, ValueError):
        return None
    return path if _has(path, "config.json") and all(_has(path, pattern) for pattern in wanted) else None


def _has(path: str, pattern: str) -> bool:
    return bool(fnmatch.filter(os.listdir(path), pattern))


def _download(model: str, patterns: list[str], report: Report) -> str:
    from huggingface_hub import snapshot_download
    from tqdm.auto import tqdm

    class Bar(tqdm):
        """Counts the files that have come."""

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            report(Progress("config", int(self.n), int(self.total or 0), self.unit_name, f"downloading {model}"))
            return shown

        @property
        def unit_name(self) -> str:
            return "bytes" if self.unit == "B" else ""

    report(Progress("config", detail=f"downloading {model}"))
    try:
        return snapshot_download(model, allow_patterns=patterns, tqdm_class=Bar)
    except (OSError, ValueError) as error:
        raise meaning(model, error) from error
