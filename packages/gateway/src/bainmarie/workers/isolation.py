"""What keeps a worker's process tree together on this machine: found out by trying, once for each gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bainmarie.workers import pid_namespace

_LIMIT = 10.0
"""Seconds for the attempt; it takes some hundredths of one."""
_NVIDIA = Path("/proc/driver/nvidia/version")
_NVIDIA_MEMORY = Path("/dev/nvidia-uvm")


@dataclass(frozen=True)
class Isolation:
    """`level`: PID namespace | child subreaper | process group | job object."""

    level: str
    kind: str = ""
    """Of the namespace, as pid_namespace.py has it."""
    reason: str = ""
    """Why it is no more than that."""

    def namespace(self, foreign: bool) -> str:
        """The kind for one worker; empty for none.

        In a user namespace no setuid helper works. A program of the user's may need one (podman its newuidmap), and so
        does CUDA where nobody has made NVIDIA's memory device yet.
        """
        if self.kind == "user" and (foreign or (_NVIDIA.exists() and not _NVIDIA_MEMORY.exists())):
            return ""
        return self.kind


@cache
def isolation() -> Isolation:
    """Blocking, the first time: starts a small process that tries."""
    if sys.platform == "win32":
        return Isolation("job object", reason="never tried on this system")
    if sys.platform != "linux":
        return Isolation(
            "process group", reason="this system has neither PID namespaces nor subreapers; never tried on it"
        )
    command = (sys.executable, "-I", "-S", pid_namespace.__file__)
    try:
        told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=_LIMIT).stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Isolation("child subreaper", reason=f"the attempt failed: {error}")
    if told["kind"]:
        return Isolation("PID namespace", told["kind"])
    return Isolation("child subreaper", reason="; ".join(told["reasons"]))


def subreaper_alone() -> Isolation:
    """Where the configuration wants no namespaces."""
    return Isolation("child subreaper", reason="`workers.pid_namespace` is false")
