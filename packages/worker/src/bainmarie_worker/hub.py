"""Where a model's files are: a directory as it is, or a hub id in the Hugging Face cache, downloaded if need be."""

from __future__ import annotations

import os
from typing import Any

from bainmarie_protocol import Progress
from bainmarie_worker.engine.engine import Report
from bainmarie_worker.errors import LoadError

_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.tiktoken", "*.txt", "*.py"]
"""Never the pickled weights that many repositories still carry beside the safe ones."""


def locate(model: str, report: Report) -> str:
    """The directory of the model. LoadError `model_not_found` if it is neither there nor to be had."""
    path = os.path.expanduser(model)
    if os.path.isdir(path):
        return path
    if os.path.isabs(path) or path.startswith((".", "~")) or path.count("/") > 1:
        what = "is a file, not a directory" if os.path.exists(path) else "does not exist"
        raise LoadError("model_not_found", f"the model directory {path} {what}", "Correct `model:` in bain.yaml.")
    return _cached(model) or _download(model, report)


def _cached(model: str) -> str | None:
    """The snapshot in the cache if it seems complete: a configuration and weights."""
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(model, allow_patterns=_PATTERNS, local_files_only=True)
    except (OSError, ValueError):
        return None
    names = os.listdir(path)
    return path if "config.json" in names and any(name.endswith(".safetensors") for name in names) else None


def _download(model: str, report: Report) -> str:
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
        return snapshot_download(model, allow_patterns=_PATTERNS, tqdm_class=Bar)
    except (OSError, ValueError) as error:
        raise _not_found(model, error) from error


def _not_found(model: str, error: Any) -> LoadError:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return LoadError(
        "model_not_found",
        f"{model} is neither a directory nor in the Hugging Face cache, and cannot be downloaded: "
        f"{type(error).__name__}: {first}",
        "Check the name, the network (HF_HUB_OFFLINE, HF_ENDPOINT) and, for gated models, `hf auth login`.",
    )
