"""read_file(path): the text of a file in the workspace."""

from __future__ import annotations

import asyncio
import codecs
import os
from pathlib import Path

from bainmarie.agent.tools.builtin.workspace import place, regular, told
from bainmarie.agent.tools.tool import Arguments, Tool, ToolFailed

TOOL = Tool(
    name="read_file",
    description="Read a text file of the workspace.",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string", "description": "The file."}},
        "required": ["path"],
        "additionalProperties": False,
    },
    idempotent=True,
    annotations={"readOnlyHint": True},
)

MAX_BYTES = 64 * 1024


async def call(arguments: Arguments, workspace: Path) -> str:
    return await asyncio.to_thread(read, workspace, str(arguments["path"]))


def read(workspace: Path, path: str) -> str:
    """The file's text (UTF-8). Of a file longer than MAX_BYTES its beginning, and how much is left out.

    ToolFailed where there is no such file, or it is no regular file, or not text.
    """
    try:
        with place(workspace, path) as found:
            # Non-blocking: opening a pipe that nobody writes to would wait for ever.
            descriptor = found.open(os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                size = regular(descriptor, path).st_size
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read(MAX_BYTES)
                    rest = max(size - len(data), len(file.read(1)))
            finally:
                os.close(descriptor)
    except OSError as error:
        raise told(error, path) from error
    return _text(data, rest, path)


def _text(data: bytes, rest: int, path: str) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        # A character that the limit cut in two is left out with the rest.
        text = decoder.decode(data, final=not rest)
    except UnicodeDecodeError as error:
        raise ToolFailed(f"{path} is not text.") from error
    if "\0" in text:
        raise ToolFailed(f"{path} is not text.")
    rest += len(decoder.getstate()[0])
    return f"{text}\n[{rest} more bytes are left out]" if rest else text
