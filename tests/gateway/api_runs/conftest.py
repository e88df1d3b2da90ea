"""The routes of runs on a real server, whose model is a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette

from bainmarie.agent.chat import AssistantMessage, Chat, ProposedCall
from bainmarie.agent.policy import ToolSettings
from bainmarie.agent.runs import Runs
from bainmarie.api.errors import EXCEPTION_HANDLERS
from bainmarie.api.runs import routes
from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.store.database import Database


class Script:
    """Says one turn after the other: a text, or calls as (tool, arguments). `wait` holds every turn back."""

    def __init__(self) -> None:
        self.turns: list[str | list[tuple[str, dict[str, Any]]]] = []
        self.asked = 0
        self.wait = asyncio.Event()
        self.wait.set()
        self.ended = asyncio.Event()
        self.status: dict[str, object] | None = None

    @asynccontextmanager
    async def hold(self, model: str, sampling: Mapping[str, object], on_status: Any) -> AsyncIterator[Chat]:
        if self.status:
            on_status(self.status)
        try:
            yield self
        finally:
            self.ended.set()

    async def __call__(self, messages: Any, tools: Any, on_delta: Callable[[str], None]) -> AssistantMessage:
        self.asked += 1
        await self.wait.wait()
        turn = self.turns.pop(0)
        if isinstance(turn, str):
            on_delta(turn)
            return AssistantMessage(turn)
        return AssistantMessage("", tuple(ProposedCall(name, json.dumps(arguments)) for name, arguments in turn))


@dataclass
class Server:
    """The server, its script, and a client."""

    script: Script
    runs: Runs
    http: httpx2.AsyncClient
    workspace: Path
    published: list[tuple[str, dict[str, object]]]
    closing: asyncio.Event

    def request(self, **fields: Any) -> dict[str, Any]:
        return {"model": "demo", "prompt": "go", "workspace": str(self.workspace), "approval": "allow", **fields}

    @asynccontextmanager
    async def stream(self, path: str = "/api/runs", **fields: Any) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
        body = self.request(**fields) if path == "/api/runs" else fields
        async with self.http.stream("POST", path, json=body) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield events(response)

    async def run(self, path: str = "/api/runs", **fields: Any) -> list[tuple[str, Any]]:
        async with self.stream(path, **fields) as told:
            return [event async for event in told]


async def events(response: httpx2.Response) -> AsyncIterator[tuple[str, Any]]:
    kind = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    script, closing = Script(), asyncio.Event()
    published: list[tuple[str, dict[str, object]]] = []
    catalog = Catalog({"demo": ModelSpec("demo")})
    runs = Runs(
        Database(tmp_path / "bain.db"),
        script,
        catalog,
        ToolSettings(),
        lambda kind, data: published.append((kind, data)),
    )
    app = Starlette(routes=routes(runs, closing), exception_handlers=EXCEPTION_HANDLERS)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none"))
    config = uvicorn_server.config
    config.load()
    listening = config.bind_socket()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    serving = asyncio.create_task(uvicorn_server.serve([listening]))
    async with httpx2.AsyncClient(base_url=address, timeout=60) as http:
        yield Server(script, runs, http, workspace, published, closing)
    closing.set()
    await runs.close()
    uvicorn_server.should_exit = True
    await serving
    listening.close()
