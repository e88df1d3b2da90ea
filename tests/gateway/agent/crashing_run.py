"""A process that starts one run and dies in the middle of it: `crashing_run.py HOME WORKSPACE WHERE`.

WHERE is `tool` (while a call runs), `result` (a call is done, its result is not saved), `turn` (the model's turn is
saved, nothing has run). It prints the run's id and is ended by itself with SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bainmarie.agent.chat import AssistantMessage, Chat, ProposedCall
from bainmarie.agent.policy import ToolSettings
from bainmarie.agent.request import read_request
from bainmarie.agent.runs import Runs
from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.store.database import Database


class Models:
    def __init__(self, command: str) -> None:
        self._command = command

    @asynccontextmanager
    async def hold(self, model: str, sampling: Mapping[str, object], on_status: Any) -> AsyncIterator[Chat]:
        yield self

    async def __call__(self, messages: Any, tools: Any, on_delta: Any) -> AssistantMessage:
        return AssistantMessage(
            "Working.",
            (
                ProposedCall("run_shell", json.dumps({"command": self._command})),
                ProposedCall("calculator", json.dumps({"expression": "20 + 3"})),
            ),
        )


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(home: Path, workspace: Path, where: str) -> None:
    # The command's parent is its watcher, the watcher's parent is this process.
    killing = "kill -9 $(ps -o ppid= -p $PPID)"
    # Once: were it run again, it must not kill the test.
    dying = f"[ -e dead ] || {{ touch dead; {killing}; sleep 60; }}"
    command = "echo ran >> ran.txt" + (f"; {dying}" if where == "tool" else "")
    runs = Runs(Database(home / "bain.db"), Models(command), Catalog({"demo": ModelSpec("demo")}), ToolSettings())
    body = {"model": "demo", "prompt": "go", "workspace": str(workspace), "approval": "allow"}
    run = await runs.start(read_request(body))
    print(run.id, flush=True)
    async for event in run.events():
        kind = event.data.get("type")
        # The first result's event comes when it is saved; the second call is done by then, its result is not.
        if (where, kind) in (("turn", "tool_call"), ("result", "tool_result")):
            die()


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
