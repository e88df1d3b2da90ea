"""A Windows job: what a process that is in it starts is in it too, and all end with the job's last handle.

The standard library alone. Never run: written by the documentation of kernel32 (learn.microsoft.com, job objects); only
the layout of its structures is tested.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import Any

_EXTENDED_LIMITS, _PROCESS_IDS = 9, 3
_KILL_ON_CLOSE = 0x2000
_MOST = 4096
"""Processes of one worker that can be told apart."""


class BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION"""

    _fields_ = (
        ("per_process_time", ctypes.c_int64),
        ("per_job_time", ctypes.c_int64),
        ("flags", ctypes.c_uint32),
        ("least_working_set", ctypes.c_size_t),
        ("most_working_set", ctypes.c_size_t),
        ("active_processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priority", ctypes.c_uint32),
        ("scheduling", ctypes.c_uint32),
    )


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION"""

    _fields_ = (
        ("basic", BasicLimits),
        ("io", ctypes.c_uint64 * 6),
        ("process_memory", ctypes.c_size_t),
        ("job_memory", ctypes.c_size_t),
        ("most_process_memory", ctypes.c_size_t),
        ("most_job_memory", ctypes.c_size_t),
    )


class ProcessIds(ctypes.Structure):
    """JOBOBJECT_BASIC_PROCESS_ID_LIST"""

    _fields_ = (
        ("assigned", ctypes.c_uint32),
        ("listed", ctypes.c_uint32),
        ("ids", ctypes.c_size_t * _MOST),
    )


class Job:
    """With this process in it, so that nothing is started outside. Its handle is this process's alone.

    Whoever kills this process closes the handle, and the system ends all others of the job.
    """

    def __init__(self) -> None:
        """OSError where the system refuses."""
        self._kernel = _kernel32()
        self._handle = self._kernel.CreateJobObjectW(None, None)
        _check(self._handle)
        limits = ExtendedLimits()
        limits.basic.flags = _KILL_ON_CLOSE
        _check(
            self._kernel.SetInformationJobObject(
                self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
            )
        )
        _check(self._kernel.AssignProcessToJobObject(self._handle, self._kernel.GetCurrentProcess()))

    def others(self) -> list[int]:
        """Pids of all in it but this process."""
        found = ProcessIds()
        _check(
            self._kernel.QueryInformationJobObject(
                self._handle, _PROCESS_IDS, ctypes.byref(found), ctypes.sizeof(found), None
            )
        )
        return [pid for pid in found.ids[: found.listed] if pid != os.getpid()]

    def kill_others(self) -> None:
        for pid in self.others():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)  # on Windows that is TerminateProcess


def _kernel32() -> Any:
    kernel: Any = getattr(ctypes, "WinDLL")("kernel32", use_last_error=True)  # noqa: B009 (there on Windows alone)
    kernel.CreateJobObjectW.restype = ctypes.c_void_p
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    handle, pointer, number = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32
    kernel.SetInformationJobObject.argtypes = (handle, ctypes.c_int, pointer, number)
    kernel.QueryInformationJobObject.argtypes = (handle, ctypes.c_int, pointer, number, pointer)
    kernel.AssignProcessToJobObject.argtypes = (handle, handle)
    return kernel


def _check(result: object) -> None:
    if not result:
        error: int = getattr(ctypes, "get_last_error")()  # noqa: B009
        raise OSError(f"Windows refuses a job object: error {error}")
