"""A worker's tree in a PID namespace: its first process dies with the shim, and all others with that."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bainmarie.workers import isolation as isolating
from bainmarie.workers import pid_namespace
from bainmarie.workers.forking import ForkingLauncher
from bainmarie.workers.isolation import Isolation, isolation
from bainmarie.workers.launch import LaunchSpec, LocalLauncher, LocalWorker
from bainmarie.workers.memory import process_memory, tree_memory
from bainmarie_protocol import Exited, Failed, Ready, Spawned

if not isolation().kind:
    pytest.skip(f"no PID namespaces here: {isolation().reason}", allow_module_level=True)

_KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
KINDS = [kind for kind in pid_namespace.KINDS if not pid_namespace._try(kind)]
LOOKS = """
import json, os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    open(sys.argv[2], "w").close()
    time.sleep(600)
os.wait()
seen = {"own": os.getpid(), "self": os.readlink("/proc/self"), "all": [n for n in os.listdir("/proc") if n.isdigit()],
        "command": open(f"/proc/{os.getpid()}/cmdline").read().split(chr(0))[-2], "user": os.getuid()}
open(sys.argv[1] + "~", "w").write(json.dumps(seen))
os.rename(sys.argv[1] + "~", sys.argv[1])
time.sleep(float(sys.argv[3]))
"""


def launcher(kind: str) -> LocalLauncher:
    return LocalLauncher(isolation=lambda: Isolation("PID namespace", kind))


def a_program(folder: Path, seconds: float = 600) -> LaunchSpec:
    """It daemonizes a grandchild, and writes down what it sees of itself."""
    spec: LaunchSpec = _KIT["launch_spec"]([_KIT["model"]()], folder)
    arguments = (str(folder / "seen"), str(folder / "daemon"), str(seconds))
    return replace(spec, argv=(sys.executable, "-I", "-S", "-c", LOOKS, *arguments))


async def seen(folder: Path) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while not ((folder / "seen").exists() and (folder / "daemon").exists()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return dict(json.loads((folder / "seen").read_text()))


def tree(worker: LocalWorker) -> dict[str, psutil.Process]:
    """Shim, init, server and daemon."""
    shim = psutil.Process(worker.pid)
    init, server = sorted(shim.children(), key=lambda process: process.name() != "bain init")
    (daemon,) = init.children()
    return {"shim": shim, "init": init, "server": server, "daemon": daemon}


async def all_gone(processes: dict[str, psutil.Process]) -> None:
    async with asyncio.timeout(20):
        while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("victim", ["shim", "init", "server"])
async def test_whoever_is_killed_the_daemon_dies(tmp_path: Path, kind: str, victim: str) -> None:
    worker = await launcher(kind).start(a_program(tmp_path))
    await seen(tmp_path)
    processes = tree(worker)
    processes[victim].kill()
    await all_gone(processes)
    await worker.ended


@pytest.mark.parametrize("kind", KINDS)
async def test_a_forked_tree_dies_with_its_shim(tmp_path: Path, kind: str) -> None:
    forking = ForkingLauncher(launcher(kind))
    spec = _KIT["launch_spec"]([_KIT["model"](daemon=str(tmp_path / "daemon"), ignore_term=True)], tmp_path)
    for stopped in (False, True):
        worker = await forking.start(spec)
        async for event in worker.events():
            if isinstance(event, Ready):
                assert event.info["start"] == "forked"
                break
        processes = tree(worker)
        if stopped:
            assert await forking.stop(worker, 0.2)
        else:
            processes["shim"].kill()
        await all_gone(processes)
        await worker.ended
    await forking.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_worker_sees_itself_and_the_gateway_sees_it_too(tmp_path: Path, kind: str) -> None:
    launched = launcher(kind)
    worker = await launched.start(a_program(tmp_path))
    told = await seen(tmp_path)
    assert told["self"] == str(told["own"])
    assert told["command"] == "600"
    assert told["user"] == os.getuid()
    assert len(told["all"]) == 3, "init, itself and the daemon"
    assert tree_memory(worker.pid) > process_memory(tree(worker)["server"].pid)
    assert await launched.stop(worker, 1)
    spawned, *_, last = [event async for event in worker.events()]
    assert isinstance(spawned, Spawned)
    assert spawned.pid != told["own"]
    assert last == Exited(signal=15)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_end_by_itself_and_a_program_that_is_not_there(tmp_path: Path, kind: str) -> None:
    worker = await launcher(kind).start(a_program(tmp_path, seconds=0))
    events = [event async for event in worker.events()]
    assert events[-1] == Exited(code=0)
    await worker.ended
    worker = await launcher(kind).start(replace(a_program(tmp_path), argv=("/nowhere/program",)))
    events = [event async for event in worker.events()]
    assert isinstance(events[0], Failed)
    assert events[0].code == "spawn_failed"
    await worker.ended


async def test_a_namespace_that_is_refused_is_a_failed_start(tmp_path: Path) -> None:
    """It was allowed when it was tried: nobody is told that it holds where it does not."""
    worker = await launcher("pid" if os.getuid() else "unheard of").start(a_program(tmp_path))
    events = [event async for event in worker.events()]
    assert isinstance(events[0], Failed)
    assert events[0].code == "spawn_failed"
    assert "pid_namespace: false" in events[0].hint


def test_setuid_helpers_keep_their_place(tmp_path: Path) -> None:
    privileged, other = (Isolation("PID namespace", kind) for kind in ("pid", "user"))
    assert [privileged.namespace(foreign=foreign) for foreign in (False, True)] == ["pid", "pid"]
    assert other.namespace(foreign=True) == ""
    nvidia = isolating._NVIDIA.exists() and not isolating._NVIDIA_MEMORY.exists()
    assert other.namespace(foreign=False) == ("" if nvidia else "user")
