"""Workers that compute at the same time share the machine's threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bainmarie_worker.engine.cores import Cores, is_held

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
HOLDER = """
import sys
from bainmarie_worker.engine.cores import Cores
Cores(sys.argv[1], 8, print).take()
print("held", flush=True)
sys.stdin.read()
"""


def worker(folder: Path, name: str, threads: int = 8) -> tuple[Cores, list[int]]:
    seen: list[int] = []
    return Cores(str(folder / f"{name}.sock"), threads, seen.append, every=0), seen


def test_alone_it_has_all(tmp_path):
    one, seen = worker(tmp_path, "one")
    for _ in range(3):
        one.take()
    assert seen == []


def test_several_share_and_whoever_is_left_has_all_again(tmp_path):
    (one, first), (two, second), (three, third) = (worker(tmp_path, name) for name in ("one", "two", "three"))
    one.take()
    two.take()
    one.take()
    assert (first, second) == ([4], [4])
    three.take()
    assert third == [2]
    two.leave()
    three.leave()
    one.take()
    assert first == [4, 8]


def test_there_is_always_one_thread(tmp_path):
    workers = [worker(tmp_path, str(number), threads=2) for number in range(5)]
    for one, _ in workers:
        one.take()
    assert [seen for _, seen in workers] == [[], [1], [1], [1], [1]]


def test_a_dead_worker_holds_nothing(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "other.sock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        one, seen = worker(tmp_path, "one")
        one.take()
        assert seen == [4]
        assert is_held(str(tmp_path / "other.busy"))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        one.take()
        assert seen == [4, 8]


def test_without_a_socket_or_with_one_thread_nothing_is_shared(tmp_path):
    for one in (Cores("", 8, print), Cores(str(tmp_path / "x.sock"), 1, print)):
        one.take()
        one.leave()
    assert list(tmp_path.iterdir()) == []
