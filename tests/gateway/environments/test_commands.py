"""Commands that end with their caller, on a pipe and on a pseudo-terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from bainmarie.environments.commands import run_command

pytestmark = pytest.mark.parametrize("terminal", [False, True])


async def test_output_and_exit_code(tmp_path: Path, terminal: bool) -> None:
    program = (
        "import sys; print('out'); print('one\\rtwo', file=sys.stderr); print('three', file=sys.stderr); sys.exit(7)"
    )
    seen: list[str] = []
    done = await run_command(
        (sys.executable, "-c", program), variables=os.environ, cwd=tmp_path, on_line=seen.append, terminal=terminal
    )
    assert (done.code, done.stdout.strip()) == (7, "out")
    assert seen == ["one", "two", "three"]
    assert done.stderr == "one\ntwo\nthree"


async def test_program_believes_in_a_terminal(tmp_path: Path, terminal: bool) -> None:
    program = "import sys; print(sys.stderr.isatty(), sys.stdin.read())"
    done = await run_command((sys.executable, "-c", program), variables=os.environ, cwd=tmp_path, terminal=terminal)
    assert done.stdout.split() == [str(terminal and os.name == "posix")]


async def test_program_that_is_not_there(tmp_path: Path, terminal: bool) -> None:
    done = await run_command((str(tmp_path / "absent"),), variables=os.environ, cwd=tmp_path, terminal=terminal)
    assert done.code == 127
    assert "cannot start" in done.stderr


async def test_cancel_ends_the_whole_tree(tmp_path: Path, terminal: bool) -> None:
    inner = "import sys, time; print('up', file=sys.stderr, flush=True); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    up = asyncio.Event()
    before = set(psutil.Process().children(recursive=True))  # what fixtures of other tests keep running
    task = asyncio.create_task(
        run_command(
            (sys.executable, "-c", outer),
            variables=os.environ,
            cwd=tmp_path,
            on_line=lambda line: up.set(),
            terminal=terminal,
        )
    )
    await up.wait()
    started = set(psutil.Process().children(recursive=True)) - before
    assert len(started) >= 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive


async def test_inherited_descriptors_reach_the_program(tmp_path: Path, terminal: bool) -> None:
    if os.name != "posix":
        pytest.skip("file descriptors are inherited by number on POSIX only")
    reader, writer = os.pipe()
    try:
        program = f"import os; os.write({writer}, b'held')"
        await run_command(
            (sys.executable, "-c", program), variables=os.environ, cwd=tmp_path, keep_open=(writer,), terminal=terminal
        )
        assert os.read(reader, 10) == b"held"
    finally:
        os.close(reader)
        os.close(writer)
