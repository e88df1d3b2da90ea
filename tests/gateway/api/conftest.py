"""A real server in the test's own loop, whose workers are real processes with the fake engine."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import uvicorn

from bainmarie.api.parts import GatewayInfo, Parts
from bainmarie.app import build_app, build_parts
from bainmarie.catalog import ModelSpec
from bainmarie.engines import fake
from bainmarie.environments.environment import Environment
from bainmarie.environments.worker_packages import carried_packages
from bainmarie.listening import bind, reachable
from bainmarie.progress import Report
from bainmarie.settings import Settings, parse_settings
from bainmarie.workers.launch import LaunchSpec

MODELS = """
models:
  echo: {engine: fake}
  plain: {engine: fake, prompt: plain}
  other: {engine: fake, options: {token_seconds: 0.001}}
  slow: {engine: fake, options: {load_seconds: 1.5}}
  long: {engine: fake, options: {token_seconds: 0.02}}
  quiet: {engine: fake, options: {token_seconds: 0.5}}
  broken: {engine: fake, options: {load_seconds: 1, fail_load: model_incomplete}}
  dies: {engine: fake, options: {crash_after_tokens: 2, token_seconds: 0.02}}
"""


@dataclass
class Server:
    """A running gateway without its process."""

    address: str
    parts: Parts
    http: httpx2.AsyncClient
    stopping: list[bool]

    def openai(self) -> openai.AsyncOpenAI:
        """OpenAI's own client, told not to try again."""
        return openai.AsyncOpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0)

    async def chat(self, model: str, text: str = "Hello", **fields: Any) -> httpx2.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until `true()`, which looks at the supervisor: not all it counts is published."""
        await until(true)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


Start = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def running(settings: Settings, home: Path) -> AsyncIterator[Server]:
    async def prepare(models: Sequence[ModelSpec], report: Report) -> LaunchSpec:
        worker = carried_packages().unpacked(home / "worker")
        environment = Environment(name="tests", digest="", python=Path(sys.executable), import_path=worker)
        return fake.launch(models, environment, home, os.environ)

    stopping: list[bool] = []
    listener = bind("127.0.0.1", 0)
    address = reachable(listener)
    info = GatewayInfo(address=address, home=str(home))
    parts = build_parts(settings, home, info, stop=lambda: stopping.append(True), prepare=prepare)
    config = uvicorn.Config(build_app(parts), log_config=None, access_log=False, timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    async with httpx2.AsyncClient(base_url=address, timeout=60, trust_env=False, verify=False) as http:
        # The socket listens already: the first request waits until the server accepts it.
        assert (await http.get("/health")).status_code == 200
        try:
            yield Server(address, parts, http, stopping)
        finally:
            parts.closing.set()
            server.should_exit = True
            await serving


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts servers with a given bain.yaml; they end with the test, and so do their workers."""
    async with AsyncExitStack() as stack:
        homes = iter([tmp_path / str(number) for number in range(4)])

        async def start_one(text: str = MODELS) -> Server:
            settings = parse_settings(text, tmp_path / "bain.yaml")
            home = next(homes)
            await asyncio.to_thread(home.mkdir)
            return await stack.enter_async_context(running(settings, home))

        yield start_one


@pytest.fixture
async def server(start: Start) -> Server:
    return await start()
