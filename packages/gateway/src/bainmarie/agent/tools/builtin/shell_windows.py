"""run_shell where there are no sessions and no subreaper: the tree is walked from here and killed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import psutil

from bainmarie.agent.tools.tool import ToolFailed

MAX_BYTES = 32 * 1024


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all it wrote."""

    code: int
    output: bytes


async def run(command: str, workspace: Path, environment: dict[str, str], limit: float) -> Ended:
    """ToolFailed past the limit. On return, also by cancellation, the processes of its tree have been killed."""
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=workspace,
        env=environment,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), limit)
    except TimeoutError as error:
        raise ToolFailed(f"the command ran longer than {limit:g} s and was ended.") from error
    finally:
        kill_tree(process.pid)
    return Ended(process.returncode or 0, output)


def shown(ended: Ended) -> str:
    """`exit code 0` and the output below it, without the middle of a long one."""
    half = MAX_BYTES // 2
    output, rest = ended.output, len(ended.output) - MAX_BYTES
    if rest > 0:
        output = output[:half] + f"\n[{rest} bytes are left out here]\n".encode() + output[-half:]
    text = output.decode(errors="replace").rstrip("\r\n")
    return f"exit code {ended.code}" + (f"\n{text}" if text else "")


def kill_tree(pid: int) -> None:
    """Kill a process and all below it, looking again until there is nothing new."""
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    while True:
        found = root.children(recursive=True) if root.is_running() else []
        for process in [*found, root]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if not found:
            return
        psutil.wait_procs(found, timeout=1)
