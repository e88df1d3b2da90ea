"""The memory budget: idle models make room, models in use do not, and the answer says who holds what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.chaos.conftest import House, Measured, model, running

SIZE = 150 * 2**20
HOLD = f"--hold={SIZE}"


async def grown(house: House, name: str) -> None:
    async with asyncio.timeout(30):
        while (await house.status(name))["memory_bytes"] < SIZE:
            await asyncio.sleep(0.1)


async def test_room_is_made_by_idle_models_alone(tmp_path: Path) -> None:
    models = {
        "a": model(HOLD, memory="200MiB"),
        "b": model(HOLD, memory="200MiB"),
        "c": model(HOLD, memory="200MiB"),
        "huge": model(memory="1GiB"),
    }
    async with running(tmp_path, {"models": models, "memory": {"cpu": "450MiB"}}) as house:
        for name in ("a", "b"):
            assert (await house.ask(name, n=1)).status_code == 200
            await grown(house, name)
        plan = (await house.http.get("/api/models/c/plan")).json()
        assert (plan["fits"], plan["measured"], plan["memory_bytes"]) == (True, False, 200 * 2**20)
        assert [holder["names"] for holder in plan["evict"]] == [["a"]]
        assert (await house.ask("c", n=1)).status_code == 200
        assert [(await house.status(name))["state"] for name in "abc"] == ["unloaded", "ready", "ready"]

        gate = tmp_path / "gate"
        busy = asyncio.create_task(house.ask("b", until=str(gate)))
        await house.busy("b")
        answer = await house.ask("huge")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "memory_full")
        assert "b 0.1" in answer.json()["error"]["message"]
        assert "It alone takes more than memory.cpu allows" in answer.json()["error"]["hint"]
        assert (await house.status("c"))["state"] == "ready"  # it would not have helped
        assert (await house.ask("a", n=1)).status_code == 200  # c goes, though b was used longer ago
        assert [(await house.status(name))["state"] for name in "abc"] == ["ready", "ready", "unloaded"]
        gate.touch()
        assert (await busy).status_code == 200
        plan = (await house.http.get("/api/models/c/plan")).json()
        assert plan["measured"]
        assert SIZE < plan["memory_bytes"] < 1.2 * SIZE
        assert plan["load_seconds"] > 0


async def test_pinned_models_stay(tmp_path: Path) -> None:
    models = {"a": model(HOLD, memory="200MiB", pinned=True), "b": model(memory="300MiB")}
    async with running(tmp_path, {"models": models, "memory": {"cpu": "450MiB"}}) as house:
        assert (await house.ask("a", n=1)).status_code == 200
        await grown(house, "a")
        answer = await house.ask("b")
        assert answer.json()["error"]["code"] == "memory_full"
        assert "a 0.1" in answer.json()["error"]["message"]


@pytest.fixture
def small_room() -> Iterator[Path]:
    """A control group whose processes may have 64 MiB together."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, limit = (first, "memory.limit_in_bytes") if first.exists() else (second, "memory.max")
    room = root / f"bain-test-{os.getpid()}"
    try:
        room.mkdir()
        (room / limit).write_text(str(64 * 2**20))
    except OSError as error:
        with suppress(OSError):
            room.rmdir()
        pytest.skip(f"this system lets nobody make a control group: {error}")
    for swap, allowed in (("memory.memsw.limit_in_bytes", str(64 * 2**20)), ("memory.swap.max", "0")):
        with suppress(OSError):
            (room / swap).write_text(allowed)
    yield room
    with suppress(OSError):
        room.rmdir()


async def test_a_kill_for_want_of_memory_is_named(tmp_path: Path, small_room: Path, measured: Measured) -> None:
    """The kernel's own kill of a worker that asks for more than its control group has."""
    async with running(tmp_path, {"models": {"m": model(f"--grow={16 * 2**20}")}}) as house:
        pid = (await house.load("m"))["pid"]
        (small_room / "cgroup.procs").write_text(str(pid))
        codes = [(await house.ask("m", n=1)).status_code for _ in range(8)]
        assert codes[0] == 200
        failed = await house.until("m", "failed")
        assert failed["last_error"]["code"] == "out_of_memory", failed["last_error"]
        assert "SIGKILL" in failed["last_error"]["message"]
        assert "for want of memory" in failed["last_error"]["hint"]
    measured(
        "a worker asks for more memory than its control group has: the kernel kills it",
        "recognized and named",
        "`out_of_memory`",
    )
