"""write_file(path, content): put a text into a file of the workspace, in one piece."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from pathlib import Path

from bainmarie.agent.tools.builtin.workspace import Place, place, regular, told
from bainmarie.agent.tools.tool import Arguments, Tool, ToolFailed

TOOL = Tool(
    name="write_file",
    description="Write a text to a file of the workspace, in place of what it held. Missing folders are made.",
    parameters={
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file."},
            "content": {"type": "string", "description": "The whole new text."},
        },
        "required": ["path", "content"],
        "additionalProperties": False,
    },
    idempotent=True,
    annotations={"destructiveHint": True},
)


async def call(arguments: Arguments, workspace: Path) -> str:
    return await asyncio.to_thread(write, workspace, str(arguments["path"]), str(arguments["content"]))


def write(workspace: Path, path: str, content: str) -> str:
    """`Wrote 5 bytes to a.txt.` The file holds the old text or the new one, never a part. Hard links are cut.

    ToolFailed where the path leads outside, or to a folder or special file.
    """
    try:
        data = content.encode()
    except UnicodeEncodeError as error:
        raise ToolFailed("the content holds half of a surrogate pair.") from error
    if path.endswith("/"):
        raise ToolFailed(f"{path} is a folder.")
    try:
        with place(workspace, path, create_parents=True) as found:
            _put(found, path, data)
    except OSError as error:
        raise told(error, path) from error
    return f"Wrote {len(data)} byte{'' if len(data) == 1 else 's'} to {path}."


def _put(found: Place, path: str, data: bytes) -> None:
    mode = _present_mode(found, path)
    temporary = f".bain-{secrets.token_hex(8)}"
    beside = found.beside(temporary)
    descriptor = beside.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, mode)
        found.replace_with(temporary)
    except OSError:
        beside.remove()
        raise


def _present_mode(found: Place, path: str) -> int | None:
    """The permissions of the file that is to be replaced, None where there is none."""
    if not found.name:
        raise ToolFailed(f"{path} is a folder.")
    try:
        descriptor = found.open(os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    try:
        return stat.S_IMODE(regular(descriptor, path).st_mode)
    finally:
        os.close(descriptor)
