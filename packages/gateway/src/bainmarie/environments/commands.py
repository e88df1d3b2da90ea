"""Running uv and interpreters: tethered to this process, killed as a whole on cancel, in a clean set of variables."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from bainmarie.environments.pseudo_terminal import pseudo_terminal

_TETHER = Path(__file__).with_name("tether.py")
_KEPT_LINES = 2000
_WIDE = "10000"
"""Columns: uv would break its sentences, and names in them, at the width of a terminal."""
_LINE_END = re.compile(rb"[\r\n]+")
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
    terminal: bool = False,
) -> Finished:
    """Run to the end; `on_line` sees each line of stderr as it comes.

    With `terminal`, stderr is a pseudo-terminal where the platform has one: then a line ends at a carriage return too.
    The command and its children are killed when this is cancelled, and when this process dies. `keep_open` are file
    descriptors that they inherit. OSError if nothing can be started.
    """
    lines = _Lines(on_line)
    if terminal and os.name == "posix":
        async with pseudo_terminal() as screen:
            there = {name: value for name, value in variables.items() if name != "COLUMNS"}
            process = await _start(command, {**there, "TERM": "xterm"}, cwd, keep_open, screen.slave)
            screen.child_has_it()
            return await _finish(process, screen.read, lines)
    process = await _start(command, {**variables, "COLUMNS": _WIDE}, cwd, keep_open, asyncio.subprocess.PIPE)
    assert process.stderr is not None
    return await _finish(process, partial(process.stderr.read, 1 << 16), lines)


async def _start(
    command: Sequence[str], variables: Mapping[str, str], cwd: Path, keep_open: Sequence[int], stderr: int
) -> asyncio.subprocess.Process:
    posix = os.name == "posix"
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_TETHER), *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=dict(variables),
            cwd=cwd,
            start_new_session=posix,
            pass_fds=tuple(keep_open) if posix else (),
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:  # asyncio itself would kill the tether alone and leave the command behind
        process = await starting
        _kill_tree(process.pid)
        await process.wait()
        raise


async def _finish(process: asyncio.subprocess.Process, read: Callable[[], Awaitable[bytes]], lines: _Lines) -> Finished:
    assert process.stdout is not None
    try:
        stdout, _ = await asyncio.gather(process.stdout.read(), lines.take(read))
        code = await process.wait()
    finally:
        if process.returncode is None:
            _kill_tree(process.pid)
            await process.wait()
    return Finished(code, stdout.decode(errors="replace"), lines.text)


class _Lines:
    """Cuts a stream into lines, passes each on, and keeps the last of them."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._kept: deque[str] = deque(maxlen=_KEPT_LINES)

    @property
    def text(self) -> str:
        return "\n".join(self._kept)

    async def take(self, read: Callable[[], Awaitable[bytes]]) -> None:
        rest = b""
        while data := await read():
            *whole, rest = _LINE_END.split(rest + data)
            for line in whole:
                self._line(line)
        self._line(rest)

    def _line(self, line: bytes) -> None:
        if text := line.decode(errors="replace"):
            self._kept.append(text)
            self._on_line(text)


def _kill_tree(pid: int) -> None:
    """Kill the group that the tether leads (Windows: its descendants, then itself)."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return
    with suppress(psutil.NoSuchProcess):
        tether = psutil.Process(pid)
        for process in [*tether.children(recursive=True), tether]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
