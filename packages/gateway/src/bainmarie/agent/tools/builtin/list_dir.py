"""list_dir(path): the names in a folder of the workspace, one a line, folders with `/`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bainmarie.agent.tools.builtin.workspace import place, told
from bainmarie.agent.tools.tool import Arguments, Tool

TOOL = Tool(
    name="list_dir",
    description="List the names in a folder of the workspace.",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string", "description": 'A folder, "." for the workspace itself.'}},
        "required": ["path"],
        "additionalProperties": False,
    },
    idempotent=True,
    annotations={"readOnlyHint": True},
)

MAX_NAMES = 1000


async def call(arguments: Arguments, workspace: Path) -> str:
    return await asyncio.to_thread(list_folder, workspace, str(arguments["path"]))


def list_folder(workspace: Path, path: str) -> str:
    """The names, sorted; `(empty)` where there are none. Links show without `/`. ToolFailed where it is no folder."""
    try:
        with place(workspace, path) as found:
            names = found.names()
    except OSError as error:
        raise told(error, path, "folder") from error
    if not names:
        return "(empty)"
    more = len(names) - MAX_NAMES
    return "\n".join(names[:MAX_NAMES] + ([f"[{more} more names are left out]"] if more > 0 else []))
