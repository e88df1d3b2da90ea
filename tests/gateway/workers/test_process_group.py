"""The guard of a process group: with the pipe alone, as systems have it that have no kqueue."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bainmarie.workers import process_group

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")

SHIM = """
import importlib.util, subprocess, sys
spec = importlib.util.spec_from_file_location("process_group", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
child = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
worker = subprocess.Popen([sys.executable, "-c", child], start_new_session=True, stdout=subprocess.PIPE, text=True)
guard = module.Guard(worker.pid)
print(worker.pid, worker.stdout.readline().strip(), flush=True)
sys.stdin.readline()
guard.dismiss()
"""


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended in order"])
def test_the_group_ends_with_a_shim_that_was_killed(killed: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SHIM, str(Path(process_group.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shim:
        assert shim.stdin is not None
        assert shim.stdout is not None
        group = [psutil.Process(int(pid)) for pid in shim.stdout.readline().split()]
        assert len(group) == 2
        guards = [p for p in psutil.process_iter() if p.pid != shim.pid and _is_guard(p)]
        assert len(guards) == 1
        if killed:
            shim.kill()
        else:
            shim.stdin.write("\n")
            shim.stdin.flush()
    psutil.wait_procs(guards, 20)
    assert not guards[0].is_running() or guards[0].status() == psutil.STATUS_ZOMBIE
    if not killed:
        assert all(process.is_running() for process in group)
        for process in group:
            process.kill()
    _, alive = psutil.wait_procs(group, 20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def _is_guard(process: psutil.Process) -> bool:
    try:
        return str(process_group.__file__) in process.cmdline()
    except psutil.Error:
        return False
