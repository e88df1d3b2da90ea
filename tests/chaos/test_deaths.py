"""Whoever is killed, nothing stays, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
from tests.chaos.conftest import LONG, House, at, crowded, model, nothing_left, running, times

from bainmarie.workers.isolation import isolation

Measured = Callable[[str, str, str], None]


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        process.kill()


@pytest.mark.parametrize("whom", ["gateway", "shim", "both"])
async def test_a_murder_leaves_nothing(tmp_path: Path, measured: Measured, whom: str) -> None:
    """Half of the murders happen while the model loads."""
    took: list[float] = []
    level = isolation().level if isolation().namespace(foreign=True) else "child subreaper"
    daemon = [] if whom == "both" and level != "PID namespace" else ["--daemon"]  # see the next test
    models = {"ready": model(*daemon), "loads": model("--load=600", *daemon)}
    for number in range(times(2, 20)):
        before = set(psutil.Process().children(recursive=True))
        async with running(tmp_path / str(number), {"models": models}) as house:
            name = "loads" if number % 2 else "ready"
            await house.http.post("/models/load", json={"model": name})
            await house.until(name, "loading" if number % 2 else "ready")
            if daemon:
                await daemon_of(house)
            gateway, shims = psutil.Process(house.process.pid), house.shims()
            others = before | ({gateway} if whom == "shim" else set())
            kill(*(shims if whom == "shim" else [gateway] if whom == "gateway" else [gateway, *shims]))
            if whom != "shim":
                await asyncio.to_thread(house.process.wait)
            took.append(await nothing_left(others))
            if whom == "shim":
                await house.until(name, "failed")
    measured(
        f"SIGKILL of {'gateway and shim' if whom == 'both' else whom}, half of them during a load"
        f"{', with a daemonized grandchild' if daemon else ''} ({level})",
        "0 descendants left after 2 s",
        f"{len(took)} of {len(took)}: nothing left after {at(took, 0.5):.2f} s (median), {max(took):.2f} s at most",
    )


async def test_what_survives_the_murder_of_both_is_swept_by_the_next_gateway(
    tmp_path: Path, measured: Measured
) -> None:
    """Without a namespace it has no tie left to anybody: only the word in its environment tells whose it was."""
    swept = 0
    for number in range(times(1, 5)):
        before = set(psutil.Process().children(recursive=True))
        loose = {"models": {"m": model("--daemon")}, "workers": {"pid_namespace": False}}
        async with running(tmp_path / str(number), loose) as house:
            await house.load("m")
            await daemon_of(house)
            server = (await house.status("m"))["pid"]
            (daemon,) = [p for p in house.below() if p not in house.shims() and p.pid != server]
            kill(psutil.Process(house.process.pid), *house.shims())
            await asyncio.to_thread(house.process.wait)
            async with running(tmp_path / str(number), {"models": {}}):
                assert daemon.status() == psutil.STATUS_ZOMBIE
                swept += 1
            await nothing_left(before)
    measured(
        "SIGKILL of gateway and shim at once, with a daemonized grandchild (child subreaper)",
        "nothing left after the next start of the home's gateway",
        f"{swept} of {swept} ended by it; until then it lives on",
    )


async def daemon_of(house: House) -> None:
    """Waits for the grandchild: a process below the gateway in a session of its own that is neither shim nor server."""
    async with asyncio.timeout(20):
        while len(sessions(house)) < 3:
            await asyncio.sleep(0.01)


def sessions(house: House) -> set[int]:
    found = set()
    for process in house.below():
        with suppress(ProcessLookupError):  # of what detaches itself, one ends meanwhile
            found.add(os.getsid(process.pid))
    return found


async def test_a_dead_worker_is_seen_and_no_other_model_suffers(tmp_path: Path, measured: Measured) -> None:
    """The other model's clients come at a fixed rate, from a process of their own. What they wait is told apart by what
    goes on meanwhile: nothing; a death; the dead model's new start; in its place a stranger that takes as much time of
    the same processor. The windows take turns, so that whatever else the machine does meets all of them."""
    seconds, window = times(2, 120), (1.0 if LONG else 0.25)
    seen: list[float] = []
    windows: dict[str, list[float]] = {"calm": [], "death": [], "start": [], "stranger": []}
    models = {"steady": model("--token-seconds=0.005"), "dies": model()}
    async with running(tmp_path, {"models": models, "workers": {"retry_gap": 0}}) as house:
        await house.load("steady")
        victim = await house.load("dies")
        body = {"model": "steady", "messages": [], "n": 4}
        crowd = asyncio.create_task(crowded(house, seconds, 40, body))
        await asyncio.sleep(window)
        while not seen or not crowd.done():
            cost = processor_seconds(victim["pid"])
            async with opened(windows["calm"], window):
                await house.status("dies")
            async with opened(windows["death"], window):
                began = time.monotonic()
                os.kill(victim["pid"], signal.SIGKILL)
                status = await house.until("dies", "failed")
                seen.append(time.monotonic() - began)
            assert status["last_error"]["code"] in ("worker_died", "out_of_memory")
            assert "SIGKILL" in status["last_error"]["message"]
            assert status["last_error"]["hint"]
            async with opened(windows["start"], window):
                victim = await house.load("dies")
            async with opened(windows["stranger"], window):
                await (await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", BURN, str(cost))).wait()
        told = await crowd
    assert set(told["codes"]) == {"200"}
    waited = {
        name: [took for meant, took in told["served"] if any(began <= meant < began + window for began in beginnings)]
        for name, beginnings in windows.items()
    }
    p95 = {name: 1000 * at(values, 0.95) for name, values in waited.items()}
    measured(
        "SIGKILL of a worker under load on another model",
        "state seen in 0.5 s; the other model: 0 errors, p95 within 10 %",
        f"{len(seen)} killed: seen after {at(seen, 0.5):.2f} s (median), {max(seen):.2f} s at most; the other model: 0 "
        f"errors in {len(told['served'])} requests at a fixed rate, p95 in the {window:g} s before a death "
        f"{p95['calm']:.1f} ms, after it {p95['death']:.1f} ms; while the dead one starts anew {p95['start']:.1f} ms, "
        f"while a stranger takes as much processor time instead ({cost:.2f} s) {p95['stranger']:.1f} ms",
    )


BURN = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass"


def processor_seconds(server: int) -> float:
    """What a model's processes have used since its start: of the server and its shim."""
    process = psutil.Process(server)
    return sum(sum(p.cpu_times()[:2]) for p in (process, *process.parents()[:1]))


@asynccontextmanager
async def opened(beginnings: list[float], seconds: float) -> AsyncIterator[None]:
    """A window of time in which something goes on."""
    began = time.monotonic()
    beginnings.append(began)
    yield
    await asyncio.sleep(max(0, began + seconds - time.monotonic()))


@pytest.mark.parametrize("fault", ["--ignore-term", "--daemon"])
async def test_a_stop_ends_everything(tmp_path: Path, measured: Measured, fault: str) -> None:
    took: list[float] = []
    async with running(tmp_path, {"models": {"m": model(fault)}, "workers": {"stop_grace": 1}}) as house:
        for _ in range(times(1, 10)):
            await house.load("m")
            began = time.monotonic()
            await house.unload("m")
            took.append(time.monotonic() - began)
            assert house.below() == set()
    measured(
        f"unload of a worker that {'ignores TERM' if fault == '--ignore-term' else 'has a daemonized grandchild'}",
        "stopped within grace (1 s) + 2 s, nothing left",
        f"{len(took)} of {len(took)}: {max(took):.2f} s at most",
    )


async def test_a_flood_of_log_fills_no_disk_and_no_memory(tmp_path: Path, measured: Measured) -> None:
    size = times(50, 1000) * 2**20
    async with running(tmp_path, {"models": {"m": model(f"--flood={size}")}}) as house:
        own = psutil.Process(house.process.pid)
        before, began = own.memory_info().rss, time.monotonic()
        assert (await house.ask("m", n=1)).status_code == 200
        took = time.monotonic() - began
        grown = own.memory_info().rss - before
        written = sum(file.stat().st_size for file in (house.home / "logs").iterdir())
    assert written <= 11 * 2**20
    assert grown < 30 * 2**20
    measured(
        f"log flood of {size // 2**20} MiB",
        "disk within cap (10 MiB), worker never blocked, gateway RSS flat",
        f"{written / 2**20:.1f} MiB on disk; answered after {took:.1f} s; gateway RSS {grown / 2**20:+.1f} MiB",
    )


async def test_the_second_gateway_names_the_first(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": {}}) as house:
        with pytest.raises(AssertionError, match=f"pid {house.process.pid} at {house.http.base_url}"):
            async with running(tmp_path, {"models": {}}):
                pass


async def test_lives_leave_nothing_open(tmp_path: Path, measured: Measured) -> None:
    crashes, cycles = times(3, 100), times(5, 500)
    models = {"dies": model("--die-after=1"), "m": model()}
    async with running(tmp_path, {"models": models, "workers": {"retry_gap": 0}}) as house:
        own = psutil.Process(house.process.pid)

        async def one(name: str) -> None:
            await house.load(name)
            answer = await house.ask(name, n=2)
            assert answer.status_code == (502 if name == "dies" else 200)
            await house.unload(name)

        def open_things() -> tuple[int, int, int, int]:
            files = sum(len(files) for _, _, files in os.walk(house.home))
            return own.num_fds(), own.num_threads(), len(own.children(recursive=True)), files

        for name in ("dies", "m") * times(2, 15):
            await one(name)
        await house.fill_pool("m")
        before, memory = open_things(), own.memory_info().rss
        for name, many in (("dies", crashes), ("m", cycles)):
            for _ in range(many):
                await one(name)
        after, grown = open_things(), own.memory_info().rss - memory
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)
    assert grown < 5 * 2**20
    measured(
        f"{crashes} crash and {cycles} load/unload cycles",
        "0 leaked descriptors, processes, sockets, threads, temp files; RSS drift under 5 MiB",
        f"descriptors, threads, processes, files: {before} before, {after} after; RSS {grown / 2**20:+.1f} MiB",
    )
