"""The same promises for our own workers, fresh and forked, without a model and with the demo model."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.chaos.conftest import PATIENCE, House, Measured, nothing_left, running, times
from tests.conftest import make_home

from bainmarie.workers.client import WorkerClient
from bainmarie_protocol import paths

KINDS = ("fresh", "forked", "demo")
MESSAGES = [{"role": "user", "content": "Hello"}]
LONG: dict[str, dict[str, Any]] = {
    "fake": {"messages": [{"role": "user", "content": "word " * 2000}]},
    "demo": {"messages": [{"role": "user", "content": "Hello"}], "ignore_eos": True, "n": 64},
}
"""Answers that take far longer than the tests' patience."""


@asynccontextmanager
async def warm(kind: str, folder: Path, kept_home: Path, **limits: float) -> AsyncIterator[House]:
    """A gateway whose only model, of that kind, is ready."""
    folder.mkdir(exist_ok=True)
    make_home(kept_home, folder / "home")
    one = {} if kind == "demo" else {"engine": "fake", "options": {"token_seconds": 0.05}}
    workers = {"fork_server": kind != "fresh", "retry_gap": 0, "stop_grace": 1, **limits}
    async with running(folder, {"models": {"demo": one}, "workers": workers}) as house:
        start = (await house.load("demo"))["info"]["start"]
        assert start == ("fresh process" if kind == "fresh" else "forked"), start
        yield house


def long(kind: str) -> dict[str, Any]:
    return {"model": "demo", "stream": True, **LONG["demo" if kind == "demo" else "fake"]}


async def running_in(house: House) -> int:
    """How many answers the worker itself says it computes."""
    (socket,) = (path for path in (house.home / "run").glob("*.sock") if len(path.stem) == 12)  # named by its key
    client = WorkerClient(socket=str(socket))
    try:
        told = (await client.json("GET", paths.INFO))["running"]
    finally:
        await client.close()
    assert isinstance(told, int)
    return told


@pytest.mark.parametrize("kind", KINDS)
async def test_deaths_and_leaving_in_mid_stream(kind: str, tmp_path: Path, kept_home: Path, measured: Measured) -> None:
    async with warm(kind, tmp_path, kept_home) as house:
        async with house.http.stream("POST", "/v1/chat/completions", json=long(kind)) as response:
            async with aclosing(response.aiter_text()) as chunks:
                while '"content"' not in await anext(chunks):
                    pass
                assert await running_in(house) > 0
        left = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            while await running_in(house):
                await asyncio.sleep(0.01)
        left = time.monotonic() - left
        text, killed, victim = "", 0.0, psutil.Process((await house.status("demo"))["pid"])
        async with house.http.stream("POST", "/v1/chat/completions", json=long(kind)) as response:
            async for chunk in response.aiter_text():
                text += chunk
                if not killed and '"content"' in chunk:
                    victim.kill()
                    killed = time.monotonic()
        ended = time.monotonic() - killed
        assert '"finish_reason": "' not in text.replace('":"', '": "')
        assert '"error"' in text.split("\n\n")[-3]
        assert text.endswith("\n\ndata: [DONE]\n\n")
        assert (await house.until("demo", "failed"))["last_error"]["code"] == "worker_died"
        again = await house.ask("demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=2)
        assert again.status_code == 200
        assert (await house.status("demo"))["pid"] != victim.pid
    measured(
        f"our own worker ({kind}): its client leaves in mid-answer; SIGKILL of it in mid-answer",
        "generation stops within 1 s; error event and [DONE] within 1 s, no finish_reason; the next request is served",
        f"{left:.2f} s; {ended:.2f} s; served",
    )


@pytest.mark.parametrize("whom", ["gateway", "shim", "both"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_murder_in_mid_answer_leaves_nothing(
    kind: str, whom: str, tmp_path: Path, kept_home: Path, measured: Measured
) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with warm(kind, tmp_path, kept_home) as house:
        asked = asyncio.create_task(house.http.post("/v1/chat/completions", json=long(kind)))
        async with asyncio.timeout(PATIENCE):
            while not await running_in(house):
                await asyncio.sleep(0.01)
        worker = psutil.Process((await house.status("demo"))["pid"])
        shim = worker.parent()
        assert shim is not None
        tree = {shim, *shim.children(recursive=True)}
        if whom == "shim":
            others = before | {psutil.Process(house.process.pid), *house.below()} - tree
            shim.kill()
            took = await nothing_left(others)
            assert (await asked).status_code >= 500 or '"error"' in (await asked).text
            assert (await house.ask("demo", max_tokens=2, messages=MESSAGES)).status_code == 200
        else:
            house.process.kill()
            if whom == "both":
                shim.kill()
            await asyncio.to_thread(house.process.wait)
            took = await nothing_left(before)
            with pytest.raises(httpx2.TransportError):
                await asked
    measured(
        f"our own worker ({kind}): SIGKILL of {'gateway and shim' if whom == 'both' else whom} in mid-answer",
        "0 descendants left after 2 s",
        f"nothing left after {took:.2f} s",
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_one_that_hangs_is_found(kind: str, tmp_path: Path, kept_home: Path, measured: Measured) -> None:
    async with warm(kind, tmp_path, kept_home, silence_limit=2, probe_limit=1) as house:
        asked = asyncio.create_task(house.http.post("/v1/chat/completions", json=long(kind)))
        async with asyncio.timeout(PATIENCE):
            while not await running_in(house):
                await asyncio.sleep(0.01)
        worker = psutil.Process((await house.status("demo"))["pid"])
        worker.suspend()
        began = time.monotonic()
        text = (await asked).text
        took = time.monotonic() - began
        assert '"wedged"' in text
        async with asyncio.timeout(PATIENCE):
            while psutil.pid_exists(worker.pid):
                await asyncio.sleep(0.01)
        assert (await house.ask("demo", max_tokens=2, messages=MESSAGES)).status_code == 200
        assert (await house.status("demo"))["pid"] != worker.pid
    measured(
        f"our own worker ({kind}): SIGSTOP of it in mid-answer (limit 3 s)",
        "found within limit x 1.2; tree gone; next request starts fresh",
        f"{took:.1f} s",
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_its_lives_leave_nothing_open(kind: str, tmp_path: Path, kept_home: Path, measured: Measured) -> None:
    many = times(3, 50)
    async with warm(kind, tmp_path, kept_home) as house:
        own = psutil.Process(house.process.pid)

        async def one(killed: bool) -> None:
            pid = (await house.load("demo"))["pid"]
            assert (await house.ask("demo", max_tokens=2, messages=MESSAGES)).status_code == 200
            if killed:
                psutil.Process(pid).kill()
                await house.until("demo", "failed")
            else:
                await house.unload("demo")

        def open_things() -> tuple[int, int, int, int]:
            files = sum(len(files) for folder in ("run", "logs") for _, _, files in os.walk(house.home / folder))
            return own.num_fds(), own.num_threads(), len(own.children(recursive=True)), files

        for number in range(times(6, 20)):
            await one(killed=number % 2 == 0)
        await house.fill_pool("demo")
        before, memory = open_things(), own.memory_info().rss
        for number in range(2 * many):
            await one(killed=number % 2 == 0)
        async with asyncio.timeout(PATIENCE):
            while open_things()[2] > before[2]:  # a fork server collects its dead a moment later
                await asyncio.sleep(0.01)
        after, grown = open_things(), own.memory_info().rss - memory
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)
    measured(
        f"our own worker ({kind}): {many} deaths and {many} unloads, each followed by a load",
        "0 leaked descriptors, processes, sockets, threads, temp files; RSS drift under 5 MiB",
        f"descriptors, threads, processes, files: {before} before, {after} after; RSS {grown / 2**20:+.1f} MiB",
    )
