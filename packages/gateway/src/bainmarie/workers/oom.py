"""Whether the system ends processes for want of memory."""

from __future__ import annotations

from pathlib import Path


def kills() -> int | None:
    """How many processes the kernel has ended for want of memory since its start, in any control group.

    Linux: `oom_kill` of /proc/vmstat. None where the system does not tell.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def told(before: int | None, now: int | None) -> str:
    """What can honestly be said about a process that SIGKILL has ended in between."""
    if before is None or now is None:
        return "Somebody ended it with SIGKILL; this system does not tell whether it was for want of memory."
    if now > before:
        return "The kernel ended a process for want of memory meanwhile; it was very probably this one."
    return "Somebody ended it with SIGKILL; the kernel has ended no process for want of memory meanwhile."
