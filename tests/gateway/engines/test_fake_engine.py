"""The real worker program with its fake engine, from the catalog to an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.errors import LoadFailed, WorkerDied
from bainmarie.events import EventBus
from bainmarie.workers.launch import LocalLauncher
from bainmarie.workers.limits import Limits
from bainmarie.workers.supervisor import Supervisor
from bainmarie_protocol import paths

Make = Callable[..., Awaitable[Supervisor]]


@pytest_asyncio.fixture
async def supervise(tmp_path: Path, environments: Any) -> AsyncIterator[Make]:
    """Makes a supervisor of the given models; nothing of it may be left at the end."""
    made: list[Supervisor] = []
    before = set(psutil.Process().children(recursive=True))

    async def make(*models: ModelSpec) -> Supervisor:
        catalog = Catalog({model.name: model for model in models})
        made.append(
            Supervisor(catalog, environments, LocalLauncher(), tmp_path, EventBus(), limits=Limits(stall=1, grace=1))
        )
        return made[-1]

    yield make
    for supervisor in made:
        await supervisor.close()
    assert set(psutil.Process().children(recursive=True)) <= before


def fake(name: str = "m", adapter: str | None = None, **options: Any) -> ModelSpec:
    return ModelSpec(name, engine="fake", model="/none", adapter=adapter, options=tuple(sorted(options.items())))


def question(model: str, text: str, **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()


async def chat(supervisor: Supervisor, name: str, text: str) -> Any:
    async with supervisor.lease(name) as lease:
        answer = await lease.client.json("POST", paths.CHAT, json.loads(question(name, text)))
    return answer["choices"][0]["message"]["content"]  # type: ignore[index]


async def test_it_answers(supervise: Make) -> None:
    supervisor = await supervise(fake())
    assert "hello there" in await chat(supervisor, "m", "hello there")
    status = supervisor.status_of("m")
    assert status.state == "ready"
    assert psutil.pid_exists(status.pid or 0)
    assert status.info


async def test_it_streams(supervise: Make) -> None:
    supervisor = await supervise(fake())
    async with supervisor.lease("m") as lease:
        async with lease.client.request("POST", paths.CHAT, question("m", "one two three", stream=True)) as response:
            data = b"".join([chunk async for chunk in response])
    assert response.headers["content-type"].startswith("text/event-stream")
    assert data.endswith(b"data: [DONE]\n\n")


async def test_many_callers_one_load(supervise: Make) -> None:
    supervisor = await supervise(fake(load_seconds=0.3))
    answers = await asyncio.gather(*(chat(supervisor, "m", f"number {n}") for n in range(50)))
    assert all(f"number {n}" in answer for n, answer in enumerate(answers))
    async with supervisor.lease("m") as lease:
        assert (await lease.client.json("GET", paths.INFO))["loads"] == 1


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"fail_load": "model_incomplete"}, "model_incomplete"),
        ({"crash_at_load": True}, "worker_died"),
        ({"hang_load": True}, "stalled"),
        ({"hang_load": True, "ignore_term": True}, "stalled"),
    ],
)
async def test_loads_that_fail(supervise: Make, options: dict[str, Any], code: str) -> None:
    supervisor = await supervise(fake(**options))
    with pytest.raises(LoadFailed) as caught:
        await chat(supervisor, "m", "hello")
    assert caught.value.code == code


async def test_it_dies_in_the_middle_of_an_answer(supervise: Make) -> None:
    supervisor = await supervise(fake(crash_after_tokens=2, token_seconds=0.01))
    with pytest.raises(WorkerDied):
        await chat(supervisor, "m", "a sentence of more than two tokens")


async def test_adapters_have_names_of_their_own(supervise: Make) -> None:
    supervisor = await supervise(fake("m"), fake("a", adapter="/some/adapter"))
    assert "hello" in await chat(supervisor, "a", "hello")
    assert [s.state for s in supervisor.status()] == ["ready", "ready"]
    await chat(supervisor, "m", "hello")
    await supervisor.unload("a")
    assert [s.state for s in supervisor.status()] == ["ready", "unloaded"]


async def test_unload_frees_everything(supervise: Make, tmp_path: Path) -> None:
    supervisor = await supervise(fake())
    before = set(psutil.Process().children(recursive=True))
    await chat(supervisor, "m", "hello")
    await supervisor.unload("m")
    assert set(psutil.Process().children(recursive=True)) <= before
    assert list((tmp_path / "run").iterdir()) == []
