"""Which Python this worker runs in, and which of the packages that matter it has."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import sys

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "bitsandbytes")


@functools.cache
def interpreter_info() -> dict[str, object]:
    """Which Python this is and what of the model's packages it has."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "interpreter": sys.executable, "packages": versions}
