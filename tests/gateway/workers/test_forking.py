"""Workers forked from a fork server: the same promises as a fresh process, and a fresh process where it cannot be."""

from __future__ import annotations

import asyncio
import logging
import os
import runpy
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import uvloop

from bainmarie.workers.client import WorkerClient
from bainmarie.workers.fork_server import ForkServerKey
from bainmarie.workers.forking import ForkingLauncher, log_path
from bainmarie.workers.launch import LaunchSpec, LocalLauncher, LocalWorker
from bainmarie.workers.records import WORD, Records
from bainmarie_protocol import Event, Exited, Failed, Listening, Progress, Ready, Spawned, paths

_KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
MakeSpec = Callable[..., LaunchSpec]


@pytest.fixture
def spec(tmp_path: Path) -> MakeSpec:
    def make(name: str = "m", before: str = "", **options: Any) -> LaunchSpec:
        made: LaunchSpec = _KIT["launch_spec"]([_KIT["model"](name, pad=name, **options)], tmp_path, before)
        return made

    return make


@pytest_asyncio.fixture
async def launcher() -> AsyncIterator[ForkingLauncher]:
    """Closed at the end, when nothing may be left."""
    before = set(psutil.Process().children(recursive=True))
    made = ForkingLauncher(LocalLauncher(), answer_room=0.5)
    yield made
    await made.close()
    left = set(psutil.Process().children(recursive=True)) - before
    assert not left, f"left behind: {left}"


async def until(worker: LocalWorker, kind: type[Event]) -> list[Event]:
    """The events up to the first of that kind."""
    seen: list[Event] = []
    async with asyncio.timeout(30):
        async for event in worker.events():
            seen.append(event)
            if isinstance(event, kind):
                return seen
    raise AssertionError(f"no {kind.__name__} in {seen}")


async def ready(launcher: ForkingLauncher, spec: LaunchSpec) -> LocalWorker:
    worker = await launcher.start(spec)
    await until(worker, Ready)
    return worker


async def info(spec: LaunchSpec, worker: LocalWorker) -> dict[str, Any]:
    client = WorkerClient(socket=spec.config.socket, port=0, token="", tail=worker.tail)
    try:
        return dict(await client.json("GET", paths.INFO))
    finally:
        await client.close()


async def until_true(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


def gone(process: psutil.Process) -> bool:
    """Dead; its parent may not have collected it yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes(worker: LocalWorker) -> tuple[psutil.Process, psutil.Process]:
    """Shim and worker."""
    shim = psutil.Process(worker.pid)
    return shim, shim.children()[0]


async def start_and_stop(spec: LaunchSpec) -> list[Event]:
    launcher = ForkingLauncher(LocalLauncher())
    worker = await launcher.start(spec)
    seen = await until(worker, Ready)
    assert await launcher.stop(worker, 1)
    seen += [event async for event in worker.events()]
    await launcher.close()
    return seen


def check_order(seen: list[Event]) -> None:
    assert seen.pop(0) == Progress("imports", detail="in the environment's fork server")
    assert [type(event) for event in seen] == [Spawned, Listening, Ready, Exited]
    assert isinstance(seen[0], Spawned)
    assert isinstance(seen[1], Listening)
    assert isinstance(seen[2], Ready)
    assert seen[0].pid == seen[1].pid
    assert seen[2].info["start"] == "forked"
    assert seen[-1] in (Exited(signal=signal.SIGTERM), Exited(code=0))


async def test_events_are_those_of_a_fresh_process(spec: MakeSpec) -> None:
    check_order(await start_and_stop(spec()))


def test_the_same_under_uvloop(spec: MakeSpec) -> None:
    check_order(uvloop.run(start_and_stop(spec())))


async def test_gateway_fork_server_shim_and_worker_are_four_processes(
    launcher: ForkingLauncher, spec: MakeSpec
) -> None:
    worker = await ready(launcher, spec())
    (server,) = launcher.status()
    shim, forked = processes(worker)
    assert (psutil.Process(server.pid).ppid(), shim.ppid(), forked.ppid()) == (os.getpid(), server.pid, shim.pid)
    assert len({os.getsid(process) for process in (server.pid, shim.pid, forked.pid)}) == 3
    assert await launcher.stop(worker, 1)
    assert psutil.pid_exists(server.pid)
    await until_true(lambda: gone(shim) and gone(forked))


async def test_a_forked_worker_has_its_own_variables_folder_and_descriptors(
    launcher: ForkingLauncher, spec: MakeSpec, tmp_path: Path
) -> None:
    one = spec()
    one = replace(one, env={**one.env, "COLOUR": "red"})
    worker = await ready(launcher, one)
    variables = (await info(one, worker))["variables"]
    own = {k: v for k, v in variables.items() if k not in ("LC_CTYPE", WORD)}
    assert own == {"PATH": os.environ["PATH"], "COLOUR": "red"}
    shim, forked = processes(worker)
    assert forked.cwd() == str(tmp_path)
    pipes = {os.readlink(f"/proc/{forked.pid}/fd/{number}") for number in (0, 1, 2)}
    assert forked.num_fds() <= 6  # 0, 1, 2, and its own: the listening socket, the poll of its server
    assert len(pipes) == 3
    assert os.readlink(f"/proc/{shim.pid}/fd/2") == str(one.log)
    assert await launcher.stop(worker, 1)


async def test_a_forked_tree_carries_a_word_of_its_own(
    launcher: ForkingLauncher, spec: MakeSpec, tmp_path: Path
) -> None:
    """As others see it: so what a murdered shim left behind can be told from its siblings."""
    daemon = tmp_path / "daemon"
    one, other = spec("one", daemon=str(daemon)), spec("other")
    workers = [await ready(launcher, one), await ready(launcher, other)]
    trees = [{process.environ()[WORD] for process in processes(worker)} for worker in workers]
    trees[0].add(psutil.Process(int(daemon.read_text())).environ()[WORD])
    trees.append({psutil.Process(launcher.status()[0].pid).environ()[WORD]})
    assert [len(words) for words in trees] == [1, 1, 1]
    assert len(set.union(*trees)) == 3
    assert (await info(one, workers[0]))["variables"][WORD] in trees[0]
    for worker in workers:
        assert await launcher.stop(worker, 1)


async def test_other_variables_need_another_fork_server(launcher: ForkingLauncher, spec: MakeSpec) -> None:
    red, blue = (replace(spec(name), env={"PATH": os.environ["PATH"], "COLOUR": name}) for name in ("red", "blue"))
    workers = [await ready(launcher, one) for one in (red, blue)]
    assert len({server.pid for server in launcher.status()}) == 2
    assert [(await info(s, w))["variables"]["COLOUR"] for s, w in zip((red, blue), workers, strict=True)] == [
        "red",
        "blue",
    ]
    for worker in workers:
        assert await launcher.stop(worker, 1)


async def test_other_packages_need_another_fork_server(launcher: ForkingLauncher, spec: MakeSpec) -> None:
    """`python_executable:` is the user's own: what it has installed may change between two starts."""
    workers = [await ready(launcher, replace(spec(name), installed=name)) for name in ("before", "after")]
    assert [server.workers for server in launcher.status()] == [1, 1]
    for worker in workers:
        assert await launcher.stop(worker, 1)


async def test_twenty_starts_at_once(launcher: ForkingLauncher, spec: MakeSpec, tmp_path: Path) -> None:
    specs = [spec(f"m{n}", say=f"this is {n}") for n in range(20)]
    workers = await asyncio.gather(*(launcher.start(one) for one in specs))
    seen = await asyncio.gather(*(until(worker, Ready) for worker in workers))
    assert all(events[-1].info["start"] == "forked" for events in seen)  # type: ignore[union-attr]
    assert len({worker.pid for worker in workers}) == 20
    assert [(server.workers, server.environment) for server in launcher.status()] == [(20, "digest")]
    assert len(list((tmp_path / "run").iterdir())) == 20
    assert all(await asyncio.gather(*(launcher.stop(worker, 1) for worker in workers)))
    assert [worker.tail() for worker in workers] == [f"this is {n}" for n in range(20)]
    assert [server.workers for server in launcher.status()] == [0]
    assert list((tmp_path / "run").iterdir()) == []


async def test_stop_ends_a_worker_that_ignores_term_and_its_daemon(
    launcher: ForkingLauncher, spec: MakeSpec, tmp_path: Path
) -> None:
    daemon = tmp_path / "daemon"
    worker = await ready(launcher, spec(ignore_term=True, daemon=str(daemon)))
    detached = psutil.Process(int(daemon.read_text()))
    shim, forked = processes(worker)
    assert detached.ppid() == shim.pid
    assert await launcher.stop(worker, 0.2)
    assert gone(detached)
    assert gone(forked)
    assert [event async for event in worker.events()] == [Exited(signal=signal.SIGKILL)]
    assert await launcher.stop(worker, 0.2)


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({"crash_at_load": True}, Exited(code=3)),
        ({"fail_load": "model_incomplete"}, Exited(code=1)),
    ],
)
async def test_a_worker_that_ends_by_itself(
    launcher: ForkingLauncher, spec: MakeSpec, options: dict[str, Any], last: Exited
) -> None:
    worker = await launcher.start(spec(**options))
    seen = await until(worker, Exited)
    assert seen[-1] == last
    assert any(isinstance(event, Failed) for event in seen) == ("fail_load" in options)
    assert worker.tail()
    await worker.ended


async def test_worker_killed(launcher: ForkingLauncher, spec: MakeSpec) -> None:
    worker = await ready(launcher, spec())
    processes(worker)[1].kill()
    assert await until(worker, Exited) == [Exited(signal=signal.SIGKILL)]
    await worker.ended
    assert launcher.status()[0].workers == 0


@pytest.mark.parametrize("options", [{}, {"load_seconds": 60}], ids=["ready", "loading"])
async def test_shim_killed_ends_its_worker(launcher: ForkingLauncher, spec: MakeSpec, options: dict[str, Any]) -> None:
    worker = await launcher.start(spec(ignore_term=True, **options))
    await until(worker, Listening if options else Ready)
    shim, forked = processes(worker)
    shim.kill()
    async with asyncio.timeout(20):
        await worker.ended
    assert (await until(worker, Exited))[-1] == Exited()
    await until_true(lambda: gone(forked))


async def test_fork_server_killed_its_workers_go_on_and_the_next_start_is_a_fresh_process(
    launcher: ForkingLauncher, spec: MakeSpec
) -> None:
    one = spec("one")
    worker = await ready(launcher, one)
    shim, forked = processes(worker)
    psutil.Process(launcher.status()[0].pid).kill()
    await until_true(lambda: not launcher.status())
    assert await info(one, worker)
    other = await launcher.start(spec("other"))
    started = (await until(other, Ready))[-1]
    assert isinstance(started, Ready)
    assert started.info["start"] == "fresh process: the environment's fork server died (SIGKILL)"
    assert await launcher.stop(worker, 1)
    assert await launcher.stop(other, 1)
    await until_true(lambda: gone(shim) and gone(forked))


async def test_fork_server_killed_before_it_came_to_the_start(
    launcher: ForkingLauncher, spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker = await launcher.start(spec(before="import time; time.sleep(60)"))
    psutil.Process(launcher.status()[0].pid).kill()
    started = (await until(worker, Ready))[-1]
    assert isinstance(started, Ready)
    assert started.info["start"] == "fresh process: the fork server died"
    assert "worker m starts as a fresh process: the fork server died" in caplog.text
    assert await launcher.stop(worker, 1)


async def test_stopped_before_the_fork_server_came_to_it(launcher: ForkingLauncher, spec: MakeSpec) -> None:
    worker = await launcher.start(spec(before="import time; time.sleep(60)"))
    server = psutil.Process(launcher.status()[0].pid)
    async with asyncio.timeout(20):
        assert await launcher.stop(worker, 1)
    assert [event async for event in worker.events()][1:] == [Exited()]
    psutil.wait_procs([server], timeout=10)
    assert gone(server)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "1 threads"),
        ("import sys; sys.exit('no')", "the fork server died"),
    ],
)
async def test_what_cannot_be_forked_is_a_fresh_process_and_says_why(
    launcher: ForkingLauncher, spec: MakeSpec, before: str, reason: str
) -> None:
    one = spec(before=before)
    worker = await launcher.start(one)
    started = (await until(worker, Ready))[-1]
    assert isinstance(started, Ready)
    assert str(started.info["start"]).startswith("fresh process: ")
    assert reason in str(started.info["start"])
    assert psutil.Process(worker.pid).ppid() == os.getpid()
    assert await launcher.stop(worker, 1)
    assert log_path(ForkServerKey.of(one), one).exists()


async def test_a_model_that_starts_elsewhere_asks_no_fork_server(launcher: ForkingLauncher, spec: MakeSpec) -> None:
    worker = await launcher.start(replace(spec(), fork_server=(), fresh_because="it starts on cuda:0"))
    started = (await until(worker, Ready))[-1]
    assert isinstance(started, Ready)
    assert started.info["start"] == "fresh process: it starts on cuda:0"
    assert launcher.status() == []
    assert await launcher.stop(worker, 1)


async def test_a_fork_server_without_workers_is_ended_after_a_while(spec: MakeSpec) -> None:
    launcher = ForkingLauncher(LocalLauncher(), idle=0.2)
    worker = await ready(launcher, spec())
    server = psutil.Process(launcher.status()[0].pid)
    assert await launcher.stop(worker, 1)
    await until_true(lambda: not launcher.status())
    psutil.wait_procs([server], timeout=10)
    again = await launcher.start(spec())
    assert (await until(again, Ready))[-1].info["start"] == "forked"  # type: ignore[union-attr]
    assert await launcher.stop(again, 1)
    await launcher.close()


async def test_its_memory_is_told(launcher: ForkingLauncher, spec: MakeSpec) -> None:
    worker = await ready(launcher, spec())
    await until_true(lambda: launcher.status()[0].memory_bytes)
    assert await launcher.stop(worker, 1)


async def test_what_a_murdered_shim_leaves_is_ended_and_its_siblings_are_not(spec: MakeSpec, tmp_path: Path) -> None:
    launcher = ForkingLauncher(LocalLauncher(Records(tmp_path / "records")))
    daemon = tmp_path / "daemon"
    worker = await ready(launcher, spec("one", daemon=str(daemon)))
    sibling = await ready(launcher, spec("other"))
    detached = psutil.Process(int(daemon.read_text()))
    assert len(list((tmp_path / "records").iterdir())) == 2
    psutil.Process(worker.pid).kill()
    await until_true(lambda: gone(detached))
    assert not gone(processes(sibling)[1])
    assert await launcher.stop(sibling, 1)
    await launcher.close()
    await until_true(lambda: not list((tmp_path / "records").iterdir()))
