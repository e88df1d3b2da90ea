"""What is said of a process that SIGKILL has ended."""

from __future__ import annotations

import sys

import pytest

from bainmarie.workers import oom


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (0, 1, "very probably this one"),
        (3, 3, "the kernel has ended no process for want of memory"),
        (None, 1, "does not tell"),
        (1, None, "does not tell"),
    ],
)
def test_no_more_is_said_than_is_known(before: int | None, now: int | None, said: str) -> None:
    assert said in oom.told(before, now)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count")
def test_the_kernels_count_is_read() -> None:
    found = oom.kills()
    assert found is None or found >= 0
