"""What a process and its children hold in memory."""

from __future__ import annotations

import psutil

from contest.processes import Failed


def shares(pid: int) -> tuple[float, float]:
    """MB of the process tree: proportional set (a page shared by n processes counts 1/n), and what is its alone."""
    root = psutil.Process(pid)
    infos = [member.memory_full_info() for member in (root, *root.children(recursive=True))]
    if not hasattr(infos[0], "pss"):
        raise Failed("this platform does not tell the proportional set")
    return sum(info.pss for info in infos) / 1e6, sum(info.uss for info in infos) / 1e6
