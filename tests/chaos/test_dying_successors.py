"""A gateway that was to take over dies on the way: the one before it serves on, with the same workers."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.chaos.conftest import House, Measured, running, times
from tests.chaos.replacing import Stream, another, starts, two_models
from tests.conftest import BAIN, clean_environ

from bainmarie.workers.records import Records


def on_a_full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


class Heir:
    """A gateway that is to take over, and comes to its end on the way."""

    def __init__(self, house: House, first: Callable[[], None] | None = None) -> None:
        self._log = house.folder / "heir.log"
        self._log.touch()
        self._begins = self._log.stat().st_size
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [str(BAIN), "up", "--announce", "--replace", "--config", str(house.folder / "bain.yaml")],
                cwd=house.folder,
                env=clean_environ(house.home),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if first else log,
                text=True,
                preexec_fn=first,  # noqa: PLW1509 (nothing of ours runs in other threads meanwhile)
            )

    async def has_the_socket(self) -> None:
        """Returns when the old gateway has handed over what it has."""
        own = psutil.Process(self.process.pid)
        async with asyncio.timeout(60):
            while not any(one.status == psutil.CONN_LISTEN for one in own.net_connections("tcp")):
                await asyncio.sleep(0.002)

    def has_said(self, text: str) -> bool:
        """In its log."""
        return text in self._log.read_text()[self._begins :]

    async def says(self, text: str) -> None:
        async with asyncio.timeout(60):
            while not self.has_said(text):
                await asyncio.sleep(0.01)

    async def end(self) -> str:
        """What it has said on stdout, now that it is gone."""
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            said = await asyncio.to_thread(stdout.read)
        await asyncio.to_thread(self.process.wait, 20)
        return said


def in_order_of_adoption(house: House) -> list[psutil.Process]:
    """The shims."""
    return [psutil.Process(record.pid) for record in Records(house.home / "run" / "workers").all()]


async def serves_as_before(house: House, pids: dict[str, int]) -> None:
    """The old gateway, with the very same workers, and all that it could."""
    told = (await house.http.get("/api/status")).json()["gateway"]
    assert told["pid"] == house.process.pid == json.loads((house.home / "gateway.json").read_text())["pid"]
    for name, pid in pids.items():
        assert (await house.ask(name)).status_code == 200
        assert (await house.status(name))["pid"] == pid
    runs = await house.http.get("/api/runs")
    assert runs.status_code == 200, runs.text  # the database is open again


@pytest.mark.parametrize("step", ["it has adopted nobody", "it has adopted one of two", "it fails by itself"])
async def test_a_gateway_that_ends_before_it_serves_has_changed_nothing(tmp_path: Path, step: str) -> None:
    """It has the socket, the lock and what it wants of the workers when it comes to its end."""
    async with running(tmp_path, {"models": two_models(tmp_path)}) as house:
        pids = {name: (await house.load(name))["pid"] for name in "ab"}
        first, second = in_order_of_adoption(house)
        clients = Stream(house, 4)
        for _ in range(times(1, 20)):
            await clients.more(5)
            if step == "it fails by itself":
                heir = Heir(house, on_a_full_disk)
            else:
                held = first if step == "it has adopted nobody" else second
                held.suspend()  # whoever adopts waits for its shim
                heir = Heir(house)
                await heir.has_the_socket()
                if held == second:
                    await heir.says("adopted the worker of")
                heir.process.kill()
                held.resume()
            assert "address" not in await heir.end()
            await clients.more(5)
            await serves_as_before(house, pids)
        await clients.end()
        assert clients.failed == []
        assert [len(starts(tmp_path, name)) for name in "ab"] == [1, 1]
        async with another(house, "--replace") as told:  # the next is not hindered by it
            assert (await house.http.get("/api/status")).json()["gateway"]["pid"] == told["pid"]
            for name, pid in pids.items():
                assert (await house.status(name))["pid"] == pid


async def test_a_gateway_is_killed_at_any_moment_of_taking_over(tmp_path: Path, measured: Measured) -> None:
    """From its start until it serves; what is killed later was a gateway as any other."""
    models, rounds, last, before = two_models(tmp_path), times(3, 200), 2.0, 0
    async with running(tmp_path, {"models": models}) as house:
        pids = {name: (await house.load(name))["pid"] for name in "ab"}
        for number in range(rounds):
            heir = Heir(house)
            await asyncio.sleep(last * number / rounds)
            heir.process.kill()
            await heir.end()
            if heir.has_said("serves at"):
                break
            await serves_as_before(house, pids)
            assert [len(starts(tmp_path, name)) for name in "ab"] == [1, 1]
            before += 1
    assert before
    measured(
        "a new gateway is killed while it takes over",
        "the old one serves on, with the same workers",
        f"{before} of {before}, up to {1000 * last * (before - 1) / rounds:.0f} ms after its start: 0 loads, 0 failed",
    )


async def test_a_worker_that_dies_with_the_new_gateway_is_started_anew(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": two_models(tmp_path)}) as house:
        pids = {name: (await house.load(name))["pid"] for name in "ab"}
        first, second = in_order_of_adoption(house)
        second.suspend()
        heir = Heir(house)
        await heir.says("adopted the worker of")
        first.kill()
        heir.process.kill()
        second.resume()
        assert "address" not in await heir.end()
        for name in "ab":
            assert (await house.ask(name)).status_code == 200
        lost = [name for name in "ab" if (await house.status(name))["pid"] != pids[name]]
        assert len(lost) == 1
        assert [len(starts(tmp_path, name)) for name in (*lost, *{"a", "b"}.difference(lost))] == [2, 1]
