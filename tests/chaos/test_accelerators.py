"""Memory of accelerators: the real binding and real processes, with a stand-in for the driver's library."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.conftest import House, model, running
from tests.conftest import BAIN, clean_environ

GIB = 2**30


@dataclass
class Driver:
    """The library, and the folder that it tells of."""

    folder: Path
    library: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"A_DRIVER": str(self.folder), "LD_LIBRARY_PATH": str(self.library)}

    def linger(self, seconds: float) -> None:
        (self.folder / "linger").write_text(str(seconds))

    def hold(self, card: int, size: int) -> int:
        """Somebody else's memory: this process's, until the returned descriptor is closed."""
        file = os.open(self.folder / f"{card}-test.held", os.O_RDWR | os.O_CREAT)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(file, str(size).encode())
        return file


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in of NVIDIA's library")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("a_driver.c")
    command = (compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / "libnvidia-ml.so.1"), str(source))
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def driver(library: Path, tmp_path: Path) -> Driver:
    """Two cards of 10 GiB."""
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "cards").write_text(f"{10 * GIB} Tin 10\n{10 * GIB} Zinc 10\n")
    return Driver(folder, library)


def on(card: int, gib: int, *arguments: str, **keys: Any) -> dict[str, Any]:
    return model(f"--gpu={card}:{gib * GIB}", *arguments, **keys)


async def measured(house: House, name: str) -> dict[str, int]:
    async with asyncio.timeout(30):
        while not (found := (await house.status(name))["accelerator_bytes"]):
            await asyncio.sleep(0.1)
    return dict(found)


async def test_what_was_measured_counts_for_the_next_load(tmp_path: Path, driver: Driver) -> None:
    """Nothing is known of any of them before; then each is let in by what it held the last time."""
    models = {"a": on(0, 5), "b": on(0, 3), "c": on(0, 4), "other": on(1, 6)}
    configuration = {"models": models, "memory": {"gpu": "90%"}}
    async with running(tmp_path, configuration, **driver.variables) as house:
        for name, gib in (("c", 4), ("b", 3), ("a", 5), ("other", 6)):
            assert (await house.ask(name, n=1)).status_code == 200
            assert await measured(house, name) == {"gpu1" if name == "other" else "gpu0": gib * GIB}
            await house.unload(name)
            assert (await house.status(name))["accelerator_bytes"] == {}

    async with running(tmp_path, configuration, **driver.variables) as house:
        for name in ("a", "other", "b"):
            assert (await house.ask(name, n=1)).status_code == 200
        gate = tmp_path / "gate"
        busy = asyncio.create_task(house.ask("b", until=str(gate)))
        await house.busy("b")
        plan = (await house.http.get("/api/models/c/plan")).json()
        assert (plan["fits"], plan["measured"], plan["accelerator_bytes"]) == (True, True, {"gpu0": 4 * GIB})
        assert plan["accelerator_budget_bytes"] == {"gpu0": 9 * GIB, "gpu1": 9 * GIB}
        assert [holder["names"] for holder in plan["evict"]] == [["a"]]
        assert (await house.ask("c", n=1)).status_code == 200
        states = {name: (await house.status(name))["state"] for name in models}
        assert states == {"a": "unloaded", "b": "ready", "c": "ready", "other": "ready"}
        gate.touch()
        assert (await busy).status_code == 200


async def test_a_load_that_cannot_fit_says_who_holds_what(tmp_path: Path, driver: Driver) -> None:
    models, gate = {"a": on(0, 6), "b": on(0, 5)}, tmp_path / "gate"
    configuration = {"models": models, "memory": {"gpu": "9GiB"}}
    async with running(tmp_path, configuration, **driver.variables) as house:
        for name in ("b", "a"):
            assert (await house.ask(name, n=1)).status_code == 200
            await measured(house, name)
            await house.unload(name)
        busy = asyncio.create_task(house.ask("a", until=str(gate)))
        await house.busy("a")
        told = (await house.ask("b")).json()["error"]
        assert told["code"] == "memory_full"
        assert "needs 5.00 GiB of gpu0 and does not fit into 9.00 GiB; held and in use: a 6.00 GiB" in told["message"]
        gate.touch()
        assert (await busy).status_code == 200


async def test_a_load_waits_until_the_driver_shows_the_memory_free(tmp_path: Path, driver: Driver) -> None:
    """What a process held is shown for a while after its end: neither is the unload done before, nor a start begun."""
    models = {"a": on(0, 6), "b": on(0, 6, "--log", str(tmp_path / "b.log"))}
    async with running(tmp_path, {"models": models, "memory": {"gpu": "100%"}}, **driver.variables) as house:
        for name in "ba":
            assert (await house.ask(name, n=1)).status_code == 200
            await measured(house, name)
            if name == "b":
                await house.unload(name)
        driver.linger(3600)
        pid = (await house.status("a"))["pid"]
        asked = asyncio.create_task(house.ask("b", n=1))
        async with asyncio.timeout(20):
            while os.path.exists(f"/proc/{pid}"):
                await asyncio.sleep(0.01)
        assert (await house.status("a"))["state"] == "stopping"  # its process is gone, its memory is not
        assert (tmp_path / "b.log").read_text().count("start") == 1
        driver.linger(0)
        assert (await asked).status_code == 200
        assert (await house.status("a"))["state"] == "unloaded"
        assert (tmp_path / "b.log").read_text().count("start") == 2


async def test_what_others_hold_is_not_taken_from_them(tmp_path: Path, driver: Driver) -> None:
    models = {"a": on(0, 6, "--log", str(tmp_path / "a.log"))}
    async with running(tmp_path, {"models": models, "memory": {"gpu": "100%"}}, **driver.variables) as house:
        assert (await house.ask("a", n=1)).status_code == 200
        await measured(house, "a")
        await house.unload("a")
        file = driver.hold(0, 8 * GIB)
        told = (await house.ask("a")).json()["error"]
        assert told["code"] == "memory_full"
        assert "the driver shows 2.00 GiB of 10.00 GiB free" in told["message"]
        assert f"pid {os.getpid()} (" in told["message"]
        os.close(file)
        assert (tmp_path / "a.log").read_text().count("start") == 1
        await house.load("a")


async def test_without_a_driver_the_gateway_says_so_and_goes_on(tmp_path: Path, library: Path) -> None:
    silent = {"LD_LIBRARY_PATH": str(library)}  # it is there, and does not start
    configuration = {"models": {"a": model()}, "memory": {"gpu": "90%"}}
    async with running(tmp_path, configuration, **silent) as house:
        assert (await house.ask("a", n=1)).status_code == 200
        assert (await house.status("a"))["accelerator_bytes"] == {}
    log = (tmp_path / "gateway.log").read_text()
    assert log.count("memory.gpu has no effect: NVIDIA's driver cannot be asked: Driver Not Loaded") == 1


@pytest.mark.parametrize("budget", ["90%", None])
def test_the_doctor_tells_of_accelerator_memory(tmp_path: Path, driver: Driver, budget: str | None) -> None:
    text = json.dumps({"memory": {"gpu": budget} if budget else {}, "models": {}})
    (tmp_path / "bain.yaml").write_text(text)
    held = driver.hold(1, 4 * GIB)
    found = doctor(tmp_path, driver.variables)
    os.close(held)
    assert found["grade"] == "good"
    assert "gpu0 (Tin 10) 10.00 GiB of 10.00 GiB free" in found["text"]
    assert "gpu1 (Zinc 10) 6.00 GiB of 10.00 GiB free" in found["text"]
    assert ("budget" in found["text"]) is (budget is not None)
    found = doctor(tmp_path, {"LD_LIBRARY_PATH": str(driver.library)})
    assert found["grade"] == ("bad" if budget else "note")
    assert "Driver Not Loaded" in found["text"]


def doctor(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    command = [str(BAIN), "doctor", "--json", "--config", str(folder / "bain.yaml")]
    env = clean_environ(folder / "home") | {"UV_OFFLINE": "1"} | variables
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=100)
    found: dict[str, str] = next(f for f in json.loads(told.stdout) if f["subject"] == "accelerator memory")
    return found
