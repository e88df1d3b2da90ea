"""Runs whose model is a script, with real tools, a real database and a real workspace."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bainmarie.agent.chat import AssistantMessage, Chat, OnDelta, ProposedCall
from bainmarie.agent.events import RunEvent
from bainmarie.agent.policy import ToolSettings
from bainmarie.agent.request import read_request
from bainmarie.agent.run import Run
from bainmarie.agent.runs import Runs
from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.store.database import Database

Turn = Any
"""A text, a (text, calls) pair, a list of calls, a whole message, or an async function that gives one of them."""


def call(tool: str, **arguments: Any) -> ProposedCall:
    return ProposedCall(tool, json.dumps(arguments))


class Script:
    """A model that says one turn after the other, and keeps what it was shown."""

    def __init__(self, *turns: Turn) -> None:
        self._turns = list(turns)
        self.messages: list[list[dict[str, Any]]] = []
        self.tools: list[list[str]] = []
        self.held = 0

    @property
    def asked(self) -> int:
        return len(self.messages)

    @asynccontextmanager
    async def hold(self, model: str, sampling: Mapping[str, object], on_status: Any) -> AsyncIterator[Chat]:
        self.held += 1
        try:
            yield self
        finally:
            self.held -= 1

    async def __call__(
        self, messages: Sequence[Any], tools: Sequence[dict[str, Any]], on_delta: OnDelta
    ) -> AssistantMessage:
        assert self.held == 1
        self.messages.append(copy.deepcopy(list(messages)))
        self.tools.append([tool["function"]["name"] for tool in tools])
        assert self._turns, f"the script has no turn left for {messages[-1]}"
        turn = self._turns.pop(0)
        if callable(turn):
            turn = await turn(messages)
        if isinstance(turn, AssistantMessage):
            on_delta(turn.reasoning, reasoning=True)
            return turn
        text, calls = turn if isinstance(turn, tuple) else (turn, []) if isinstance(turn, str) else ("", turn)
        for word in text.split():
            on_delta(word)
        return AssistantMessage(text, tuple(calls))


Decide = Callable[[dict[str, Any]], Awaitable[None]]


class World:
    """One gateway's runs. `again` is the same after a restart."""

    def __init__(self, home: Path, workspace: Path, script: Script, **settings: Any) -> None:
        self.home = home
        self.workspace = workspace
        self.script = script
        self.database = Database(home / "bain.db")
        catalog = Catalog({"demo": ModelSpec("demo")})
        self.runs = Runs(self.database, script, catalog, ToolSettings(**settings))
        self.events: list[RunEvent] = []

    async def start(self, prompt: str = "go", **fields: Any) -> Run:
        request = {"model": "demo", "prompt": prompt, "workspace": str(self.workspace), "approval": "allow", **fields}
        return await self.runs.start(read_request(request))

    async def run(self, prompt: str = "go", decide: Decide | None = None, **fields: Any) -> dict[str, Any]:
        """Start a run, answer its questions, and give what its `done` event says."""
        return await self.follow(await self.start(prompt, **fields), decide)

    async def follow(self, run: Run, decide: Decide | None = None) -> dict[str, Any]:
        async for event in run.events():
            self.events.append(event)
            if event.kind == "approval" and decide is not None:
                await decide(event.data)
        return self.events[-1].data

    def approving(self, **fields: Any) -> Decide:
        async def decide(asked: dict[str, Any]) -> None:
            await self.runs.approvals.decide(asked["id"], "approve", **fields)

        return decide

    def denying(self, reason: str = "") -> Decide:
        async def decide(asked: dict[str, Any]) -> None:
            await self.runs.approvals.decide(asked["id"], "deny", reason=reason)

        return decide


MakeWorld = Callable[..., World]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.fixture
async def world(tmp_path: Path, workspace: Path) -> AsyncIterator[MakeWorld]:
    """Makes worlds on one home; closes them with the test."""
    made: list[World] = []

    def make(*turns: Turn, **settings: Any) -> World:
        made.append(World(tmp_path / "home", workspace, Script(*turns), **settings))
        return made[-1]

    yield make
    for one in made:
        await one.runs.close()


@pytest.fixture
def tool_call() -> Callable[..., ProposedCall]:
    return call
