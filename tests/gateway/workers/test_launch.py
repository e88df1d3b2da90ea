"""The shim and its worker, seen from the launcher."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from bainmarie.errors import ConfigurationError
from bainmarie.workers import launch
from bainmarie.workers.launch import LaunchSpec, LocalLauncher, LocalWorker, tail
from bainmarie.workers.sockets import socket_path, tidy
from bainmarie_protocol import Event, Exited, Listening, Ready, Spawned


async def until(worker: LocalWorker, kind: type[Event]) -> list[Event]:
    """The events up to the first of that kind."""
    seen: list[Event] = []
    async for event in worker.events():
        seen.append(event)
        if isinstance(event, kind):
            return seen
    raise AssertionError(f"no {kind.__name__} in {seen}")


async def start_and_stop(spec: LaunchSpec) -> list[Event]:
    worker = await LocalLauncher().start(spec)
    seen = await until(worker, Ready)
    assert await LocalLauncher().stop(worker, 1)
    return seen + [event async for event in worker.events()]


def check_order(seen: list[Event]) -> None:
    assert [type(event) for event in seen] == [Spawned, Listening, Ready, Exited]
    assert isinstance(seen[0], Spawned)
    assert isinstance(seen[1], Listening)
    assert seen[0].pid == seen[1].pid
    assert seen[-1] in (Exited(signal=signal.SIGTERM), Exited(code=0))  # TERM, or the end of its lifeline


async def test_events_come_in_order_and_exited_is_the_last(launch_spec: Any, model: Any) -> None:
    check_order(await start_and_stop(launch_spec(model())))


def test_the_same_under_uvloop(launch_spec: Any, model: Any) -> None:
    check_order(uvloop.run(start_and_stop(launch_spec(model()))))


async def test_stop_ends_a_worker_that_ignores_term_and_its_daemon(
    launch_spec: Any, model: Any, tmp_path: Path
) -> None:
    launcher, daemon = LocalLauncher(), tmp_path / "daemon"
    worker = await launcher.start(launch_spec(model(ignore_term=True, daemon=str(daemon))))
    seen = await until(worker, Ready)
    detached = psutil.Process(int(daemon.read_text()))
    assert isinstance(seen[0], Spawned)
    assert detached.ppid() == worker.pid
    assert await launcher.stop(worker, 0.2)
    assert not detached.is_running()
    assert not psutil.pid_exists(seen[0].pid)
    assert [event async for event in worker.events()] == [Exited(signal=signal.SIGKILL)]
    assert await launcher.stop(worker, 0.2)


async def test_a_daemon_does_not_outlive_a_worker_that_exits(launch_spec: Any, model: Any, tmp_path: Path) -> None:
    daemon = tmp_path / "daemon"
    worker = await LocalLauncher().start(launch_spec(model(daemon=str(daemon), crash_at_load=True)))
    seen = await until(worker, Exited)
    assert seen[-1] == Exited(code=3)
    assert not psutil.pid_exists(int(daemon.read_text()))
    await worker.ended


async def test_the_socket_is_removed_at_the_end_and_a_stale_one_at_the_start(launch_spec: Any, model: Any) -> None:
    spec = launch_spec(model())
    path = spec.log.parent.parent / "run" / Path(spec.config.socket).name
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    worker = await LocalLauncher().start(spec)
    await until(worker, Ready)
    assert path.is_socket()
    busy = path.with_suffix(".busy")
    busy.touch()
    worker_pid = psutil.Process(worker.pid).children()[0].pid
    os.kill(worker_pid, signal.SIGKILL)
    assert await until(worker, Exited) == [Exited(signal=signal.SIGKILL)]
    assert not path.exists()
    assert not busy.exists(), "whose lock tells that it computes"
    await worker.ended


async def test_the_log_is_bounded_and_a_flood_blocks_nobody(launch_spec: Any, model: Any) -> None:
    spec = launch_spec(model(flood=40_000_000, say="before the flood"))
    await start_and_stop(spec)
    sizes = [path.stat().st_size for path in spec.log.parent.iterdir()]
    assert len(sizes) == 2
    assert all(size <= launch._LOG_BYTES for size in sizes)
    assert sum(sizes) >= launch._LOG_BYTES
    assert len(tail(spec.log, 10).splitlines()) == 10
    assert set(tail(spec.log, 10)) <= set("0123456789\n")


async def test_the_tail_is_of_the_latest_start_alone(launch_spec: Any, model: Any) -> None:
    spec = launch_spec(model(say="first\nlines"))
    await start_and_stop(spec)
    assert tail(spec.log, 1) == "lines"
    await start_and_stop(replace(spec, config=replace(spec.config, options={"say": "second"})))
    assert tail(spec.log) == "second"
    assert "first" in spec.log.read_text()
    assert tail(spec.log.with_name("none.log")) == ""


async def test_a_configuration_larger_than_a_pipe(launch_spec: Any, model: Any) -> None:
    spec = launch_spec(model())
    check_order(await start_and_stop(replace(spec, config=replace(spec.config, options={"pad": "x" * 1_000_000}))))


async def test_the_worker_inherits_nothing_but_its_variables(launch_spec: Any, model: Any) -> None:
    launcher = LocalLauncher()
    worker = await launcher.start(launch_spec(model()))
    await until(worker, Ready)
    process = psutil.Process(worker.pid).children()[0]
    variables = set(process.environ()) - {"LC_CTYPE"}
    descriptors = process.num_fds()
    assert await launcher.stop(worker, 1)
    assert variables == {"PATH", "BAIN_WORKER"}
    assert descriptors <= 6  # 0, 1, 2, and its own: the listening socket, the poll of its server


def test_socket_paths_are_short_and_private(tmp_path: Path) -> None:
    assert socket_path(tmp_path, "key") == str(tmp_path / "run" / "key.sock")
    far = tmp_path / ("x" * 100)
    path = Path(socket_path(far, "key"))
    assert len(os.fsencode(path)) <= 100
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert socket_path(far, "key") == str(path)
    path.touch()
    tidy(far / "run")
    assert path.exists(), "somebody may have it open"
    path.unlink()
    path.with_suffix(".busy").touch()
    path.parent.chmod(0o755)
    with pytest.raises(ConfigurationError, match=re.escape(str(path.parent))) as refused:
        socket_path(far, "key")
    assert "BAIN_HOME" in refused.value.hint
    tidy(far / "run")
    assert not path.parent.exists()
    tidy(far / "run")


def test_the_sockets_lie_in_one_place_whatever_tmpdir_says(tmp_path: Path) -> None:
    far = tmp_path / ("x" * 100)
    path = socket_path(far, "key")
    code = f"from bainmarie.workers.sockets import *; print(socket_path(Path({str(far)!r}), 'key'))"
    elsewhere = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == path
    tidy(far / "run")


@pytest.mark.parametrize("command", ["stop 0.1", ""])
async def test_a_shim_without_a_configuration_ends_too(
    launch_spec: Any, model: Any, tmp_path: Path, command: str
) -> None:
    worker = await LocalLauncher().start(launch_spec(model(silent=True)))
    assert isinstance(await anext(worker.events()), Spawned)
    pipe = worker._transport.get_pipe_transport(0)
    assert pipe is not None
    if command:
        worker.say(command)
    else:
        pipe.close()
    async with asyncio.timeout(20):
        await worker.ended
