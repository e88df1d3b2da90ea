"""What can be known of Windows from here: the layout of its structures, and the shim's order of things.

In place of the job a tree of real processes is walked; all else is what runs there.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bainmarie.workers.job_object import BasicLimits, ExtendedLimits, ProcessIds

pytestmark = pytest.mark.usefixtures("subreaper")

SHIM = """
import json, os, sys
import psutil
from bainmarie.workers import posix_shim, shim
from bainmarie.workers.windows_shim import WindowsShim

class Tree:
    def others(self):
        found = psutil.Process().children(recursive=True)
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]
    def kill_others(self):
        for process in self.others():
            process.kill()

settings = shim.Settings(**json.loads(sys.argv[1]))
posix_shim._prctl(posix_shim._PR_SET_CHILD_SUBREAPER, 1)
WindowsShim(settings, shim.Log(settings.log, settings.log_bytes), shim.emit, Tree, (0.3, 0.3)).run()
"""
READS_TO_THE_END = "import sys; line = sys.stdin.readline(); print(line, file=sys.stderr, flush=True); sys.stdin.read()"
HAS_A_STUBBORN_CHILD = (
    "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
    "sys.stderr.write('up\\n'); sys.stderr.flush(); import time; time.sleep(600)"
)


def test_the_layout_is_that_of_64_bit_windows() -> None:
    """Sizes as sizeof() of winnt.h says them."""
    assert ctypes.sizeof(BasicLimits) == 64
    assert ctypes.sizeof(ExtendedLimits) == 144
    assert (ExtendedLimits.io.offset, ExtendedLimits.process_memory.offset) == (64, 112)
    assert (BasicLimits.flags.offset, ProcessIds.ids.offset) == (16, 8)


@contextmanager
def shim(folder: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    settings: dict[str, Any] = {
        "argv": [sys.executable, "-c", program],
        "cwd": str(folder),
        "log": str(folder / "log"),
        "log_bytes": 10_000,
        "socket": "",
        "grace": 1.0,
    }
    with subprocess.Popen(
        [sys.executable, "-c", SHIM, json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return told


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def logged(folder: Path, text: str) -> None:
    while text not in (folder / "log").read_text():
        time.sleep(0.01)


def test_the_first_line_is_the_workers_and_the_next_stops_it(tmp_path: Path) -> None:
    with shim(tmp_path, READS_TO_THE_END) as process:
        assert said(process)["event"] == "spawned"
        tell(process, '{"hello": 1}')
        logged(tmp_path, '{"hello": 1}')
        tell(process, "stop 20")
        assert said(process) == {"event": "exited", "code": 0}
        assert process.wait(20) == 0


@pytest.mark.parametrize("how", ["stop", "the gateway's end"])
def test_nothing_is_left_of_a_tree_that_does_not_want_to_end(tmp_path: Path, how: str) -> None:
    with shim(tmp_path, HAS_A_STUBBORN_CHILD) as process:
        said(process)
        tell(process, "{}")
        logged(tmp_path, "up")
        tree = psutil.Process(process.pid).children(recursive=True)
        assert len(tree) == 2
        if how == "stop":
            tell(process, "stop 0.2")
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert said(process)["event"] == "exited"
        process.wait(20)
        assert [one for one in tree if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def test_what_a_dead_worker_leaves_is_ended(tmp_path: Path) -> None:
    with shim(tmp_path, HAS_A_STUBBORN_CHILD) as process:
        worker = psutil.Process(said(process)["pid"])
        logged(tmp_path, "up")
        (child,) = worker.children()
        worker.kill()
        assert said(process)["event"] == "exited"
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_program_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    settings = {"argv": ["/nowhere"], "cwd": str(tmp_path), "log": str(tmp_path / "log"), "log_bytes": 10, "socket": ""}
    told = subprocess.run(
        [sys.executable, "-c", SHIM, json.dumps({**settings, "grace": 1})],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["event"] for line in told.stdout.splitlines()] == ["failed", "exited"]
