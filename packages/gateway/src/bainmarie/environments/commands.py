"""Running uv and interpreters: tethered to this process, killed as a whole on cancel, in a clean set of variables."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_TETHER = Path(__file__).with_name("tether.py")
_LONGEST_LINE = 1 << 20
_FOREIGN = (
    "VIRTUAL_ENV",
    "CONDA_",
    "PYTHON",
    "UV_PROJECT",
    "UV_WORKING_DIR",
    "UV_SYSTEM_PYTHON",
    "RUST_LOG",
    "LD_PRELOAD",
)
"""Beginnings of variable names that would let another environment leak into a build."""
_KEPT = ("PYTHONUTF8",)


@dataclass(frozen=True)
class Finished:
    """A command that has ended, with all of its output."""

    code: int
    stdout: str
    stderr: str


def clean_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what belongs to another Python environment or project."""
    foreign = {name for name in environ if name.startswith(_FOREIGN) and name not in _KEPT}
    foreign |= {"UV_PYTHON"} & set(environ)
    return {name: value for name, value in environ.items() if name not in foreign}


async def run_command(
    command: Sequence[str],
    *,
    variables: Mapping[str, str],
    cwd: Path,
    on_line: Callable[[str], None] = lambda line: None,
    keep_open: Sequence[int] = (),
) -> Finished:
    """Run to the end; `on_line` sees each line of stderr as it comes.

    The command and its children are killed when this is cancelled, and when this process dies. `keep_open` are file
    descriptors that they inherit. OSError if nothing can be started.
    """
    posix = os.name == "posix"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(_TETHER), *command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(variables),
        cwd=cwd,
        limit=_LONGEST_LINE,
        start_new_session=posix,
        pass_fds=tuple(keep_open) if posix else (),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        stdout, stderr = await asyncio.gather(process.stdout.read(), _lines(process.stderr, on_line))
        code = await process.wait()
    finally:
        if process.returncode is None:
            _kill_tree(process.pid)
            await process.wait()
    return Finished(code, stdout.decode(errors="replace"), stderr)


async def _lines(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> str:
    lines = []
    while line := await stream.readline():
        text = line.decode(errors="replace").rstrip("\r\n")
        lines.append(text)
        on_line(text)
    return "\n".join(lines)


def _kill_tree(pid: int) -> None:
    """Kill the group that the tether leads (Windows: its descendants, then itself)."""
    if os.name == "posix":
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return
    with suppress(psutil.NoSuchProcess):
        tether = psutil.Process(pid)
        for process in [*tether.children(recursive=True), tether]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
