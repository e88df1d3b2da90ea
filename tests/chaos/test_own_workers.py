"""The same promises for our own workers, fresh and forked, without a model and with the demo model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.chaos.conftest import PATIENCE, House, Measured, nothing_left, running
from tests.conftest import make_home

from bainmarie.workers.client import WorkerClient
from bainmarie_protocol import paths

KINDS = ("fresh", "forked", "demo")
LONG: dict[str, dict[str, Any]] = {
    "fake": {"messages": [{"role": "user", "content": "word " * 2000}]},
    "demo": {"messages": [{"role": "user", "content": "Hello"}], "ignore_eos": True, "n": 64},
}
"""Answers that take far longer than the tests' patience."""


@asynccontextmanager
async def warm(kind: str, folder: Path, kept_home: Path) -> AsyncIterator[House]:
    """A gateway whose only model, of that kind, is ready."""
    folder.mkdir(exist_ok=True)
    make_home(kept_home, folder / "home")
    one = {} if kind == "demo" else {"engine": "fake", "options": {"token_seconds": 0.05}}
    workers = {"fork_server": kind != "fresh", "retry_gap": 0, "stop_grace": 1}
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


@pytest.mark.parametrize(
    ("kind", "whom"), [("fresh", "both"), ("forked", "gateway"), ("forked", "both"), ("demo", "both")]
)
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
