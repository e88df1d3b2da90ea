"""The parent of a detached gateway does not collect it, as the first process of many containers does not."""

from __future__ import annotations

import os

import psutil


def test_a_gateway_that_nobody_collects_is_down_all_the_same(subreaper: None, home) -> None:
    started = home.bain("up", "--detach", "--port", "0")
    assert started.returncode == 0, started.stderr
    pid = home.pid()
    try:
        assert psutil.Process(pid).ppid() == os.getpid()
        stopped = home.bain("down")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert home.bain("down").stderr == "no gateway is running\n"
        assert home.bain("status").returncode == 7
    finally:
        os.waitpid(pid, 0)
