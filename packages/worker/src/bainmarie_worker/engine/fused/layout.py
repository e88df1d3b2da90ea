"""What descriptions of a model's parts have in common: how decoder.c is told of a matrix, and what it does not know."""

from __future__ import annotations

import ctypes
from typing import Any

POINTER, WHOLE, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Unknown(Exception):
    """What of a model decoder.c does not know, in words."""


class Matrix(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("weight", "scale", "bias")),
        *((name, WHOLE) for name in ("inputs", "outputs", "kind")),
    )


def require(holds: bool, what: str) -> None:
    """Unknown where it does not hold."""
    if not holds:
        raise Unknown(what)


def either(of: Any, name: str, other: str) -> Any:
    """What its own code calls by one of two names."""
    return getattr(of, name) if hasattr(of, name) else getattr(of, other)
