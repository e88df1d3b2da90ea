"""What NVIDIA's driver tells of its accelerators: the only file that knows NVML.

The driver gives the numbers of processes as the system's first PID namespace has them. A gateway in a container has
other numbers: there no process of the list is one of its own, and only the sums are right.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
"""Of the driver; the binding loads it by this name too."""

_one = threading.Lock()
"""NVML may be called by many threads, but its start may not."""


class NoDriver(Exception):
    """There is none, or it does not answer: the text says why."""


@dataclass(frozen=True)
class Card:
    """One accelerator at one moment; sizes in bytes."""

    number: int
    name: str
    uuid: str
    total: int
    free: int
    holders: Mapping[int, int]
    """By pid; a process whose size the driver does not tell is left out."""


def cards() -> list[Card]:
    """All of this machine. Blocking: the first call takes up to some seconds. NoDriver."""
    with _one:
        nvml = _started()
    try:
        return [_card(nvml, number) for number in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise NoDriver(f"NVIDIA's driver fails: {error}") from error


@cache
def _started() -> Any:
    if sys.platform == "linux":
        try:
            ctypes.CDLL(_LIBRARY)
        except OSError as error:  # the binding alone takes 10 MB of memory
            raise NoDriver(f"NVIDIA's driver is not there: {error}") from None
    import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoDriver(f"NVIDIA's driver cannot be asked: {error}") from error
    return pynvml


def _card(nvml: Any, number: int) -> Card:
    device = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    running = nvml.nvmlDeviceGetComputeRunningProcesses(device)
    return Card(
        number,
        nvml.nvmlDeviceGetName(device),
        nvml.nvmlDeviceGetUUID(device),
        int(memory.total),
        int(memory.free),
        {process.pid: process.usedGpuMemory for process in running if process.usedGpuMemory is not None},
    )
