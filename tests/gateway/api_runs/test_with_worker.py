"""Runs through the whole gateway: HTTP, supervisor, a real worker process with the fake engine, real tools."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from bainmarie.api.parts import GatewayInfo
from bainmarie.app import build_app, build_parts
from bainmarie.catalog import ModelSpec
from bainmarie.engines import fake
from bainmarie.environments.environment import Environment
from bainmarie.environments.worker_packages import carried_packages
from bainmarie.listening import bind, reachable
from bainmarie.progress import Report
from bainmarie.settings import parse_settings
from bainmarie.workers.launch import LaunchSpec

TURNS = 10
SCRIPT = [
    {"content": "Step.", "tool_calls": [{"name": "calculator", "arguments": {"expression": f"{n} + 1"}}]}
    for n in range(TURNS)
]
CONFIGURATION = {
    "models": {
        "steps": {"engine": "fake", "options": {"load_seconds": 0.5, "script": [*SCRIPT, {"content": "The end."}]}},
        "dies": {"engine": "fake", "options": {"crash_after_tokens": 1, "token_seconds": 0.01}},
        "broken": {"engine": "fake", "options": {"fail_load": "model_incomplete"}},
    },
    "tools": {"approval": "allow"},
}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async def prepare(models: Sequence[ModelSpec], report: Report) -> LaunchSpec:
        worker = carried_packages().unpacked(tmp_path / "worker")
        environment = Environment(name="tests", digest="", python=Path(sys.executable), import_path=worker)
        return fake.launch(models, environment, tmp_path, os.environ)

    listener = bind("127.0.0.1", 0)
    info = GatewayInfo(address=reachable(listener), home=str(tmp_path))
    settings = parse_settings(json.dumps(CONFIGURATION), tmp_path / "bain.yaml")
    parts = build_parts(settings, tmp_path, info, prepare=prepare)
    config = uvicorn.Config(build_app(parts), log_config=None, access_log=False, timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    async with httpx2.AsyncClient(base_url=info.address, timeout=60, trust_env=False) as http:
        yield http
        parts.closing.set()
        server.should_exit = True
        await serving


async def run(http: httpx2.AsyncClient, **body: Any) -> list[tuple[str, Any]]:
    told, kind = [], ""
    async with http.stream("POST", "/api/runs", json={"prompt": "go", **body}) as response:
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                told.append((kind, json.loads(line.removeprefix("data: "))))
    return told


async def test_ten_iterations_in_a_row_on_a_model_that_had_to_be_loaded(http, capsys):
    told = await run(http, model="steps")
    assert told[0][0] == "status"
    assert {data["id"] for kind, data in told if kind == "status"} == {"steps"}
    done = told[-1][1]
    assert (done["status"], done["text"]) == ("completed", "The end.")
    assert [entry["result"] for entry in done["log"]] == [str(n + 1) for n in range(TURNS)]
    assert [data["text"] for kind, data in told if kind == "item" and data.get("role") == "assistant"] == [
        *["Step."] * TURNS,
        "The end.",
    ]
    told = await run(http, model="steps")
    assert "status" not in [kind for kind, _ in told]
    overheads = [t["overhead_seconds"] * 1000 for t in told[-1][1]["timings"]]
    models = [t["model_seconds"] * 1000 for t in told[-1][1]["timings"]]
    with capsys.disabled():
        print(f"\nan iteration: overhead {statistics.median(overheads):.1f} ms, fake model with HTTP ", end="")
        print(f"{statistics.median(models):.1f} ms (medians of {len(models)})")


async def test_a_worker_that_dies_fails_the_run_and_says_so(http):
    done = (await run(http, model="dies", prompt="one two three"))[-1][1]
    assert (done["status"], done["error"]["code"]) == ("failed", "worker_died")
    told = (await http.get(f"/api/runs/{done['run_id']}")).json()
    assert [item["type"] for item in told["items"]] == ["message"]


async def test_a_model_that_does_not_load_fails_the_run_with_the_loads_error(http):
    done = (await run(http, model="broken"))[-1][1]
    assert (done["status"], done["error"]["code"]) == ("failed", "model_incomplete")
