"""Weights that were mapped from a file are looked up page by page when they are first read; here that is done beside.

A thread reads a byte of each page while the rest of the load goes on: for 1 GB in the page cache the first pass takes
half as long. It does not ask the kernel to fill whole ranges (MADV_POPULATE_READ): as long as such a call runs, nobody
else in the process can be given memory, and the load waits for it. Pages that are not in memory yet are read from the
disk meanwhile.
"""

from __future__ import annotations

import mmap
import sys
import threading
from typing import Any


def prefault(model: Any) -> None:
    """Begins it for all parameters in main memory, and returns. Nothing happens on Windows, which copies weights."""
    if sys.platform == "win32":
        return
    import torch

    weights = [parameter.detach() for parameter in model.parameters()]
    plain = [w for w in weights if type(w) is torch.Tensor and w.device.type == "cpu" and w.is_contiguous()]
    threading.Thread(target=_touch, args=(plain,), name="prefault").start()


def _touch(tensors: list[Any]) -> None:
    """Soon over where the program ends meanwhile: an interpreter that goes away under torch's code aborts."""
    import torch

    torch.set_num_threads(1)  # of this thread
    for tensor in tensors:
        if not threading.main_thread().is_alive():
            return
        tensor.flatten().view(torch.uint8)[:: mmap.PAGESIZE].sum()
