"""Ready workers go from one supervisor to the next, as they are; what cannot be proven to be one is ended."""

from __future__ import annotations

import asyncio
import runpy
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.events import EventBus
from bainmarie.workers.changes import identity
from bainmarie.workers.forking import ForkingLauncher
from bainmarie.workers.launch import LaunchSpec, LocalLauncher
from bainmarie.workers.note import LastUse, Note
from bainmarie.workers.records import Records
from bainmarie.workers.succession import Succession
from bainmarie.workers.supervisor import Supervisor
from bainmarie_protocol import paths

_KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
launch_spec: Callable[..., LaunchSpec] = _KIT["launch_spec"]
pytestmark = pytest.mark.usefixtures("subreaper")


class One:
    """A supervisor, with all that it needs to hand its workers over or to get some."""

    def __init__(
        self, home: Path, models: Sequence[ModelSpec], *, forked: bool = False, takes_over: bool = False
    ) -> None:
        async def prepare(models: Any, report: Any) -> LaunchSpec:
            return launch_spec(models, home, *(["pass"] if forked else []))

        self.records = Records(home / "run" / "workers")
        self._fresh = LocalLauncher(self.records)
        self._forking = ForkingLauncher(self._fresh) if forked else None
        self.supervisor = Supervisor(
            Catalog({model.name: model for model in models}),
            None,  # type: ignore[arg-type]
            self._forking or self._fresh,
            home,
            EventBus(),
            prepare=prepare,
            succession=Succession(self.records, takes_over=takes_over),
        )

    async def adopt(self) -> None:
        await self.supervisor.adopt(self.records, self._fresh)

    async def close(self) -> None:
        await self.supervisor.close()
        if self._forking is not None:
            await self._forking.close()


Make = Callable[..., One]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[One] = []

    def one(models: Sequence[ModelSpec], **options: Any) -> One:
        made.append(One(tmp_path, models, **options))
        return made[-1]

    yield one
    for each in reversed(made):
        await each.close()


@pytest.mark.parametrize("forked", [False, True], ids=["fresh", "forked"])
async def test_a_ready_worker_goes_over_as_it_is(make: Make, model: Callable[..., ModelSpec], forked: bool) -> None:
    models = [model("m", keep_alive=600.0), model("pirate", adapter="/adapter", keep_alive=600.0), model("cold", x=1)]
    old, new = make(models, forked=forked), make(models, forked=forked, takes_over=True)
    await old.supervisor.load("m")
    await old.supervisor.load("pirate")
    before = old.supervisor.status_of("m")
    assert before.info["start"] == ("forked" if forked else "fresh process")
    tree = psutil.Process(before.pid)
    assert old.supervisor.unsettled() == []
    async with old.supervisor.lease("m"):  # its request is not over
        old.supervisor.hand_over()
        await new.adopt()
        after = new.supervisor.status_of("m")
        assert (after.state, after.pid, after.info) == ("ready", before.pid, before.info)
        assert (after.loaded_at, after.environment_digest) == (before.loaded_at, before.environment_digest)
        assert after.last_used_at == before.last_used_at
        assert [new.supervisor.status_of(name).state for name in ("pirate", "cold")] == ["ready", "unloaded"]
        async with new.supervisor.lease("pirate") as lease:
            assert (await lease.client.json("GET", "/"))["adapter_loads"] == 1
        async with new.supervisor.lease("m") as lease, lease.client.request("POST", paths.CHAT, b"{}") as answer:
            assert answer.status == 200
            await answer.read()
    await old.close()
    assert tree.is_running()
    assert new.supervisor.status_of("m").state == "ready"
    new.supervisor.predecessor_left()
    await new.supervisor.unload("m")
    assert not tree.is_running()
    assert list(new.records.all()) == []


@pytest.mark.parametrize("forked", [False, True], ids=["fresh", "forked"])
@pytest.mark.parametrize("end", ["unloaded", "killed"])
async def test_what_nobody_took_is_taken_back(
    make: Make, model: Callable[..., ModelSpec], forked: bool, end: str
) -> None:
    old = make([model("m"), model("n", x=1)], forked=forked)
    await old.supervisor.load("m")
    before = old.supervisor.status_of("m")
    tree = psutil.Process(before.pid)
    async with old.supervisor.lease("m"):  # a request goes on meanwhile
        old.supervisor.hand_over()
        await old.supervisor.take_back()
    after = old.supervisor.status_of("m")
    assert (after.state, after.pid, after.loaded_at, after.info) == ("ready", before.pid, before.loaded_at, before.info)
    assert [record.note for record in old.records.all()] == [None]  # it ends with its gateway, as before
    async with old.supervisor.lease("m") as lease, lease.client.request("POST", paths.CHAT, b"{}") as answer:
        assert answer.status == 200
        await answer.read()
    await old.supervisor.load("n")
    await old.supervisor.unload("n")
    if end == "unloaded":
        await old.supervisor.unload("m")
        assert not tree.is_running()
    else:
        tree.kill()
        async with asyncio.timeout(20):
            while (found := old.supervisor.status_of("m")).state != "failed":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert found.last_error
        assert "SIGKILL" in found.last_error.message
    await old.close()
    assert list(old.records.all()) == []


async def test_what_died_meanwhile_is_started_anew(make: Make, model: Callable[..., ModelSpec]) -> None:
    old = make([model("m")])
    await old.supervisor.load("m")
    before = old.supervisor.status_of("m").pid
    old.supervisor.hand_over()
    (record,) = old.records.all()
    psutil.Process(record.pid).kill()
    await old.supervisor.take_back()
    assert old.supervisor.status_of("m").state == "unloaded"
    async with old.supervisor.lease("m"):
        assert old.supervisor.status_of("m").pid != before


async def test_a_released_worker_starts_nothing_more(make: Make, model: Callable[..., ModelSpec]) -> None:
    old = make([model("m"), model("n", x=1)])
    await old.supervisor.load("m")
    old.supervisor.hand_over()
    with pytest.raises(Exception, match="shutting down"):
        await old.supervisor.load("n")
    new = make([])
    await new.adopt()  # nobody wants it: it is ended
    assert list(new.records.all()) == []


async def test_the_last_use_counts(make: Make, model: Callable[..., ModelSpec]) -> None:
    models = [model("m", keep_alive=3.0)]
    old, new = make(models), make(models, takes_over=True)
    began = time.monotonic()
    await old.supervisor.load("m")
    old.supervisor.hand_over()
    await new.adopt()
    new.supervisor.predecessor_left()

    async with asyncio.timeout(20):
        while new.supervisor.status_of("m").state != "unloaded":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert time.monotonic() - began > 2.9


async def test_nobody_waits_for_the_requests_of_a_gateway_that_is_dead(
    make: Make, model: Callable[..., ModelSpec]
) -> None:
    """What it had written down last says that its worker was busy."""
    old, new = make([model("m", keep_alive=600.0)]), make([model("m", keep_alive=600.0)])
    await old.supervisor.load("m")
    async with old.supervisor.lease("m"):
        old.supervisor.hand_over()
    (record,) = old.records.all()
    assert record.note is not None
    assert record.note["busy"]
    await new.adopt()
    async with new.supervisor.lease("m", keep_alive=0):
        pass
    async with asyncio.timeout(20):
        while new.supervisor.status_of("m").state != "unloaded":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_without_survival_an_adopted_worker_ends_with_its_gateway(
    make: Make, model: Callable[..., ModelSpec]
) -> None:
    old, new = make([model()]), make([model()])
    await old.supervisor.load("m")
    old.supervisor.hand_over()
    assert [record.note is None for record in old.records.all()] == [False]
    await new.adopt()
    assert [record.note is None for record in new.records.all()] == [True]


def test_the_identity_is_of_what_the_process_depends_on(model: Callable[..., ModelSpec]) -> None:
    def of(*models: ModelSpec) -> str:
        return identity(Catalog({m.name: m for m in models}), models)

    assert of(model(keep_alive=1.0)) == of(model(keep_alive=2.0))
    assert of(model()) != of(model(x=1))
    assert of(model()) != of(model(), model("pirate", adapter="/adapter"))


def test_a_note_is_read_as_it_was_written() -> None:
    note = Note(
        name="m",
        worker_key="k",
        identity="i",
        version="1",
        protocol=5,
        pid=2,
        socket="/s",
        port=3,
        token="t",
        foreign=True,
        log="/l",
        environment="e",
        loaded_at="2026-01-02T03:04:05Z",
        load_seconds=4.5,
        info={"device": "cpu"},
        adapters=("a", "b"),
        uses={"m": LastUse(6.0), "a": LastUse(7.0, float("inf"))},
        busy=True,
    )
    assert Note.from_json(note.to_json()) == note
    spec = note.spec()
    assert (spec.config.socket, spec.config.token, spec.door and spec.door.port) == ("/s", "t", 3)
