"""A supervisor over real processes: `a_worker.py` in place of a model."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.events import EventBus
from bainmarie.progress import Progress, Report
from bainmarie.workers.backoff import BackOff
from bainmarie.workers.launch import LaunchSpec, LocalLauncher
from bainmarie.workers.limits import Limits
from bainmarie.workers.supervisor import Supervisor

_KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
model: Callable[..., ModelSpec] = _KIT["model"]
launch_spec: Callable[[Sequence[ModelSpec], Path], LaunchSpec] = _KIT["launch_spec"]


@pytest.fixture(name="model")
def model_fixture() -> Callable[..., ModelSpec]:
    return model


@pytest.fixture(name="launch_spec")
def launch_spec_fixture(tmp_path: Path) -> Callable[[ModelSpec], LaunchSpec]:
    return lambda model: launch_spec([model], tmp_path)


@dataclass
class Kitchen:
    """A supervisor, the events it publishes, and the processes below this test."""

    supervisor: Supervisor
    events: EventBus
    home: Path
    news: list[tuple[str, str]]
    """(model, state) of every event so far."""
    heard: asyncio.Event

    def states(self, name: str = "m") -> list[str]:
        """The states that were published, without repetitions."""
        states = [state for id, state in self.news if id == name]
        return [s for i, s in enumerate(states) if i == 0 or states[i - 1] != s]

    async def until(self, name: str, state: str) -> None:
        """Waits until the model is in that state and this was published."""
        async with asyncio.timeout(30):
            while self.states(name)[-1:] != [state]:
                self.heard.clear()
                await self.heard.wait()

    async def chat(self, name: str = "m", **body: Any) -> dict[str, object]:
        async with self.supervisor.lease(name) as lease:
            return await lease.client.json("POST", "/v1/chat/completions", body)


MakeKitchen = Callable[..., Awaitable[Kitchen]]


@pytest_asyncio.fixture
async def kitchen(tmp_path: Path) -> AsyncIterator[MakeKitchen]:
    """Makes supervisors; closes them and checks that no process is left below the test."""
    made: list[tuple[Kitchen, asyncio.Task[None]]] = []

    async def make(
        *models: ModelSpec, limits: Limits | None = None, back_off: BackOff | None = None, prepare: Any = None
    ) -> Kitchen:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)

        async def prepared(group: Sequence[ModelSpec], report: Report) -> LaunchSpec:
            report(Progress("resolve"))
            return launch_spec(group, home)

        events = EventBus()
        supervisor = Supervisor(
            Catalog({m.name: m for m in models or (model(),)}),
            None,  # type: ignore[arg-type]
            LocalLauncher(),
            home,
            events,
            limits=limits or Limits(grace=1),
            back_off=back_off or BackOff(first=0.2, longest=0.5),
            prepare=prepare or prepared,
        )
        news: list[tuple[str, str]] = []
        listening, heard = asyncio.Event(), asyncio.Event()

        async def listen() -> None:
            async with events.subscribe() as stream:
                listening.set()
                async for _, data in stream:
                    news.append((str(data["id"]), str(data["state"])))
                    heard.set()

        task = asyncio.create_task(listen())
        await listening.wait()
        made.append((Kitchen(supervisor, events, home, news, heard), task))
        return made[-1][0]

    before = set(psutil.Process().children(recursive=True))
    yield make
    for kitchen, task in made:
        await kitchen.supervisor.close()
        task.cancel()
    left = set(psutil.Process().children(recursive=True)) - before
    assert not left, f"left behind: {left}"
