"""run_shell(command): one command of the system's shell, started in the workspace.

The shell is not confined to the workspace: it may do whatever the user may, which is why a person is asked first.
It gets no input and none of the gateway's secrets: only the environment variables named here. When it returns, passes
its time limit or the run is cancelled, every process it started is killed, also those in the background.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from bainmarie.agent.tools.tool import Arguments, Tool, ToolFailed

LIMIT = 30.0
"""Seconds a command may take."""
GRACE = 10.0
"""Seconds more for killing and collecting, before the call itself is given up."""
MAX_BYTES = 32 * 1024
"""Of output that the model is shown: one half from the beginning, one from the end."""

TOOL = Tool(
    name="run_shell",
    description="Run a shell command in the workspace and show its exit code and output.",
    parameters={
        "type": "object",
        "properties": {"command": {"type": "string", "description": "The command line."}},
        "required": ["command"],
        "additionalProperties": False,
    },
    annotations={"destructiveHint": True, "openWorldHint": True},
    time_limit=LIMIT + GRACE,
)

_PASSED_ON = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP", "TERM"),
    *("SYSTEMROOT", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
}


async def call(arguments: Arguments, workspace: Path) -> str:
    return await run(str(arguments["command"]), workspace, LIMIT)


async def run(command: str, workspace: Path, limit: float) -> str:
    """`exit code 0` and the output below it: any exit code is a result. ToolFailed past the limit, with the output.

    On return, also by cancellation, no process of the command is left.
    """
    if "\0" in command:
        raise ToolFailed("a command cannot hold a NUL character.")
    if sys.platform == "win32":
        from bainmarie.agent.tools.builtin.shell_windows import run as run_here
        from bainmarie.agent.tools.builtin.shell_windows import shown

        return shown(await run_here(command, workspace, environment(os.environ), limit))
    answer = await _tree(command, workspace, limit)
    output = _output(answer)
    if answer["end"] == "limit":
        raise ToolFailed(f"the command ran longer than {limit:g} s and was ended.{output}")
    if answer["end"] == "stopped":
        raise ToolFailed(f"the command was ended.{output}")
    return f"exit code {_status(answer['code'])}{output}"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a command sees: no keys, no tokens, nothing that is not named."""
    return {name: value for name, value in environ.items() if name.upper() in _PASSED_ON or name.startswith("LC_")}


async def _tree(command: str, workspace: Path, limit: float) -> dict[str, object]:
    script = Path(__file__).with_name("shell_tree.py")
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(script), str(limit), str(MAX_BYTES), command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=workspace,
            env=environment(os.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(f"the command could not be started: {error.strerror}.") from error
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    # A task of its own: when this call is cancelled the tree must still end before we return.
    reading = asyncio.gather(process.stdout.read(), process.stderr.read(), process.wait())
    try:
        text, trouble, _ = await asyncio.shield(reading)
    finally:
        process.stdin.close()
        await asyncio.shield(reading)
    if not text:
        raise ToolFailed(f"the command's watcher ended: {trouble.decode(errors='replace')[-300:].strip()}")
    answer: dict[str, object] = json.loads(text)
    return answer


def _status(code: object) -> int:
    """As the shell itself says it: a signal is 128 and its number."""
    assert isinstance(code, int)
    return code if code >= 0 else 128 + signal.Signals(-code).value


def _output(answer: Mapping[str, object]) -> str:
    """The output on lines of its own, with a word where its middle is left out."""
    head, tail = (base64.b64decode(str(answer[part])).decode(errors="replace") for part in ("head", "tail"))
    left_out = f"\n[{answer['left_out']} bytes are left out here]\n" if answer["left_out"] else ""
    text = f"{head}{left_out}{tail}".rstrip("\n")
    return f"\n{text}" if text else ""
