"""The gateway is killed with SIGKILL: two seconds later nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

A_GATEWAY = Path(__file__).with_name("a_gateway.py")


@asynccontextmanager
async def a_gateway(home: Path, until: str, *forking: str, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A gateway process whose model has just reached that state; killed at the end."""
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, str(A_GATEWAY), str(home), json.dumps(options), *forking, stdout=asyncio.subprocess.PIPE
    )
    assert gateway.stdout is not None
    try:
        async with asyncio.timeout(30):
            while (await gateway.stdout.readline()).decode().strip() != until:
                assert not gateway.stdout.at_eof()
        yield gateway
    finally:
        if gateway.returncode is None:
            gateway.kill()
        await gateway.wait()


def reap(process: psutil.Process) -> None:
    """Collects a dead orphan; its like may vanish by itself between two looks."""
    with suppress(psutil.NoSuchProcess):
        if process.ppid() == os.getpid() and process.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(process.pid, 0)


async def nothing_left(before: set[psutil.Process]) -> float:
    """Seconds until no process but those of `before` is below this one."""
    start = time.monotonic()
    async with asyncio.timeout(20):
        while left := set(psutil.Process().children(recursive=True)) - before:
            for process in left:
                reap(process)
            await asyncio.sleep(0.01)
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("until", "options"),
    [
        ("ready", {}),
        ("ready", {"ignore_term": True}),
        ("ready", {"daemon": True}),
        ("ready", {"ignore_term": True, "daemon": True}),
        ("starting", {}),
        ("starting", {"silent": True, "ignore_term": True}),
        ("loading", {"load_seconds": 60}),
        ("loading", {"load_seconds": 60, "ignore_term": True, "daemon": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "plain",
)
async def test_gateway_killed(subreaper: None, tmp_path: Path, until: str, options: dict[str, Any]) -> None:
    before = set(psutil.Process().children(recursive=True))
    if "daemon" in options:
        options = {**options, "daemon": str(tmp_path / "daemon")}
    async with a_gateway(tmp_path, until, **options) as gateway:
        if "daemon" in options:
            assert psutil.pid_exists(int((tmp_path / "daemon").read_text()))
        gateway.kill()
        await gateway.wait()
        took = await nothing_left(before)
    print(f"gateway killed while {until} {options}: nothing left after {took:.2f} s")
    assert list((tmp_path / "run").iterdir()) == []


async def test_gateway_and_shim_killed(subreaper: None, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with a_gateway(tmp_path, "ready", ignore_term=True) as gateway:
        shim = psutil.Process(gateway.pid).children()[0]
        gateway.kill()
        shim.kill()
        await gateway.wait()
        took = await nothing_left(before)
    print(f"gateway and shim killed: nothing left after {took:.2f} s")


@pytest.mark.parametrize("number", range(6))
async def test_gateway_killed_at_any_moment_of_the_start(subreaper: None, tmp_path: Path, number: int) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with a_gateway(tmp_path, "preparing", load_seconds=60, ignore_term=True) as gateway:
        await asyncio.sleep(0.025 * number)
        gateway.kill()
        await gateway.wait()
        took = await nothing_left(before)
    print(f"killed {25 * number} ms after the start: nothing left after {took:.2f} s")
