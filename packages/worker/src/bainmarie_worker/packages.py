"""The packages of the model's environment: imported when they are needed, missed with a word on what to do."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from typing import Any

from bainmarie_protocol.versions import numbers
from bainmarie_worker.errors import LoadError


def need(name: str, why: str = "") -> Any:
    """The imported package. LoadError `package_missing` names what is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise LoadError(
            "package_missing",
            f"{missing} cannot be imported in {sys.executable}: {error}" + (f" ({why})" if why else ""),
            f"Add {missing.partition('.')[0]} to the packages of the model's environment.",
        ) from error


def version_of(name: str) -> tuple[int, ...]:
    """The first two numbers of an installed package's version."""
    return numbers(importlib.metadata.version(name))[:2]
