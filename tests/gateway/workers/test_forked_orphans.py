"""Gateway, fork server, shim are killed with SIGKILL, alone and together: seconds later no forked worker is left."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import psutil
import pytest

_ORPHANS = runpy.run_path(str(Path(__file__).with_name("test_orphans.py")))
a_gateway, nothing_left = (_ORPHANS[name] for name in ("a_gateway", "nothing_left"))


def named(gateway: int, name: str) -> psutil.Process:
    """The gateway's descendant of that name."""
    (found,) = (process for process in psutil.Process(gateway).children(recursive=True) if process.name() == name)
    return found


@pytest.mark.parametrize(
    ("until", "options"),
    [
        ("ready", {}),
        ("ready", {"ignore_term": True, "daemon": True}),
        ("starting", {"silent": True, "ignore_term": True}),
        ("loading", {"load_seconds": 60, "ignore_term": True, "daemon": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "plain",
)
async def test_gateway_killed(subreaper: None, tmp_path: Path, until: str, options: dict[str, Any]) -> None:
    before = set(psutil.Process().children(recursive=True))
    if "daemon" in options:
        options = {**options, "daemon": str(tmp_path / "daemon")}
    async with a_gateway(tmp_path, until, "pass", **options) as gateway:
        gateway.kill()
        await gateway.wait()
        took = await nothing_left(before)
    print(f"gateway killed while {until} {options}: nothing left after {took:.2f} s")
    assert list((tmp_path / "run").iterdir()) == []


async def test_gateway_killed_while_the_fork_server_imports(subreaper: None, tmp_path: Path) -> None:
    """Inside C code, which no Python code could interrupt: the kernel ends it."""
    busy = (
        "from bainmarie_worker import lifeline; lifeline.end_without_gil(0, True); "
        f"open({str(tmp_path / 'busy')!r}, 'w').close(); sum(range(10**12))"
    )
    before = set(psutil.Process().children(recursive=True))
    async with a_gateway(tmp_path, "starting", busy) as gateway:
        async with asyncio.timeout(20):
            while not (tmp_path / "busy").exists():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.01)
        gateway.kill()
        await gateway.wait()
        took = await nothing_left(before)
    print(f"gateway killed while its fork server is in C code: nothing left after {took:.2f} s")


@pytest.mark.parametrize(
    "victims",
    [("bain shim",), ("bain fork srv",), ("bain shim", "bain fork srv"), ("bain worker", "bain fork srv")],
    ids="+".join,
)
async def test_killed_together_with_the_gateway(subreaper: None, tmp_path: Path, victims: tuple[str, ...]) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with a_gateway(tmp_path, "ready", "pass", ignore_term=True) as gateway:
        condemned = [named(gateway.pid, victim) for victim in victims]
        gateway.kill()
        for victim in condemned:
            victim.kill()
        await gateway.wait()
        took = await nothing_left(before)
    print(f"gateway and {' and '.join(victims)} killed: nothing left after {took:.2f} s")


@pytest.mark.parametrize("number", range(6))
async def test_gateway_killed_at_any_moment_of_the_start(subreaper: None, tmp_path: Path, number: int) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with a_gateway(tmp_path, "preparing", "pass", load_seconds=60, ignore_term=True) as gateway:
        await asyncio.sleep(0.1 * number)
        gateway.kill()
        await gateway.wait()
        took = await nothing_left(before)
    print(f"killed {100 * number} ms after the start: nothing left after {took:.2f} s")
