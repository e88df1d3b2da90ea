"""One memory arena for all threads of the gateway (glibc)."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_M_ARENA_MAX = -8
"""mallopt(3)."""


def share_one_arena() -> None:
    """Call it before any thread is started. Other C libraries: no effect.

    glibc gives each thread an arena of its own and takes little of it back: the gateway grew with every load. Its
    threads read files of /proc and wait for locks; one arena for all costs them nothing.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
