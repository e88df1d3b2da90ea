"""The descendants of a process, however they were started."""

from __future__ import annotations

import subprocess
import sys

import psutil

from bainmarie.workers.tree import below

PARENT = """
import subprocess, sys, threading
def start():
    global child
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import os; os.fork(); input()"], stdin=subprocess.PIPE,
                             start_new_session=True)
thread = threading.Thread(target=lambda: (start(), print("started", flush=True), child.wait()))
thread.start()
sys.stdin.read()
child.stdin.close()
"""


def test_children_of_children_and_of_threads_are_found() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        while len(found := below(parent.pid)) < 2:
            pass
        child, grandchild = found
        assert (psutil.Process(child).ppid(), psutil.Process(grandchild).ppid()) == (parent.pid, child)
        parent.stdin.close()
    assert below(parent.pid) == []
