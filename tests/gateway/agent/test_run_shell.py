from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bainmarie.agent.tools.builtin.run_shell import MAX_BYTES, environment, run
from bainmarie.agent.tools.tool import ToolFailed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell")

TREE = """
echo $$ >> pids
sh -c 'echo $$ >> pids; exec sleep 300' &
setsid sh -c 'echo $$ >> pids; (setsid sh -c "echo \\$\\$ >> pids; exec sleep 300" &) ; exec sleep 300' &
(trap '' TERM HUP INT; echo $$ >> pids; sh -c 'echo $$ >> pids; exec sleep 300') &
until [ "$(wc -l < pids)" -ge 6 ]; do sleep 0.01; done
"""
"""Starts processes in the background, in sessions of their own, orphaned, and deaf to signals."""


def pids(workspace: Path) -> list[int]:
    return [int(line) for line in (workspace / "pids").read_text().split()]


def alive(numbers: list[int]) -> list[int]:
    return [n for n in numbers if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]


async def test_exit_code_and_output(workspace):
    assert await run("true", workspace, 20) == "exit code 0"
    assert await run("echo hello; echo there >&2", workspace, 20) == "exit code 0\nhello\nthere"
    assert await run("echo no; exit 3", workspace, 20) == "exit code 3\nno"
    assert await run("kill -9 $$", workspace, 20) == "exit code 137"
    assert (await run("nosuchcommand", workspace, 20)).startswith("exit code 127\n")


async def test_it_works_in_the_workspace_without_input(workspace):
    assert await run("pwd -P; cat; touch made.txt", workspace, 20) == f"exit code 0\n{workspace.resolve()}"
    assert (workspace / "made.txt").exists()


async def test_the_time_limit_ends_the_whole_tree_and_keeps_the_output(workspace):
    with pytest.raises(ToolFailed, match=r"ran longer than 3 s and was ended\.\nbegun"):
        await run(f"echo begun; {TREE} sleep 300", workspace, 3)
    assert len(pids(workspace)) == 6
    assert alive(pids(workspace)) == []


async def test_background_processes_end_with_the_command(workspace):
    assert await run(f"{TREE} echo done", workspace, 60) == "exit code 0\ndone"
    assert len(pids(workspace)) == 6
    assert alive(pids(workspace)) == []


async def test_cancelling_ends_the_whole_tree(workspace):
    os.mkfifo(workspace / "begun")
    task = asyncio.create_task(run(f"{TREE} echo > begun; sleep 300", workspace, 60))
    await asyncio.to_thread((workspace / "begun").read_text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(pids(workspace)) == 6
    assert alive(pids(workspace)) == []


def test_a_killed_gateway_leaves_nothing(workspace):
    os.mkfifo(workspace / "begun")
    code = (
        "import asyncio, sys; from pathlib import Path; from bainmarie.agent.tools.builtin.run_shell import run;"
        "asyncio.run(run(sys.argv[1], Path(sys.argv[2]), 60))"
    )
    command = f"{TREE} echo > begun; sleep 300"
    gateway = subprocess.Popen([sys.executable, "-c", code, command, str(workspace)])
    (workspace / "begun").read_text()
    processes = [psutil.Process(n) for n in pids(workspace)]
    gateway.send_signal(signal.SIGKILL)
    gateway.wait()
    _, left = psutil.wait_procs(processes, timeout=20)
    assert not left


async def test_long_output_keeps_both_ends_and_says_what_is_missing(workspace):
    text = await run("echo first; yes 0123456789 | head -c 200000; echo; echo last", workspace, 60)
    assert text.startswith("exit code 0\nfirst\n")
    assert text.endswith("\nlast")
    assert f"[{6 + 200000 + 1 + 5 - MAX_BYTES} bytes are left out here]" in text
    assert len(text) < MAX_BYTES + 100
    assert "left out" not in await run(f"yes | head -c {MAX_BYTES}", workspace, 60)


async def test_output_that_is_no_text_is_shown_as_far_as_it_goes(workspace):
    assert await run(r"printf 'a\377b'", workspace, 20) == "exit code 0\na\ufffdb"


async def test_the_gateways_secrets_are_not_passed_on(workspace):
    given = {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "HF_TOKEN": "s", "OPENAI_API_KEY": "s", "PYTHONPATH": "s"}
    assert environment(given) == {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C"}
    names = {line.split("=")[0] for line in (await run("env", workspace, 20)).splitlines()[1:]}
    assert names <= {*environment(os.environ), "PWD", "OLDPWD", "SHLVL", "_"}


async def test_signals_work_as_ever_inside_the_command(workspace):
    text = await run("sleep 300 & kill $!; wait $!; echo $?; trap 'echo caught' TERM; kill $$; true", workspace, 20)
    assert text.splitlines()[-2:] == ["143", "caught"]


async def test_a_workspace_that_is_gone_is_said(workspace):
    with pytest.raises(ToolFailed, match="could not be started"):
        await run("true", workspace / "none", 20)
    with pytest.raises(ToolFailed, match="NUL"):
        await run("echo \0", workspace, 20)
