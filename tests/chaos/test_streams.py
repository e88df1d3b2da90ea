"""Streams: a death is never taken for an end, a client that leaves stops the work, a full line says so."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from tests.chaos.conftest import PATIENCE, House, at, crowded, model, running, times

Measured = Callable[[str, str, str], None]


async def stream(house: House, name: str, **body: Any) -> tuple[str, float]:
    """The whole text of a stream, and how long after its last content the end came."""
    text, last, end = "", 0.0, 0.0
    body = {"model": name, "messages": [], "stream": True, **body}
    async with house.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        async for chunk in response.aiter_text():
            text, end = text + chunk, time.monotonic()
            if '"content"' in chunk:
                last = end
    return text, end - last


async def test_a_death_in_mid_stream_is_an_error_event(tmp_path: Path, measured: Measured) -> None:
    many = times(2, 50)
    models = {kind: model("--die-after=3", *more) for kind, more in (("plain", []), ("http10", ["--http10"]))}
    waits: list[float] = []
    async with running(tmp_path, {"models": models, "workers": {"retry_gap": 0}}) as house:
        for _ in range(many):
            for name in models:
                await house.load(name)
                text, wait = await stream(house, name, n=10)
                waits.append(wait)
                assert 'finish_reason": "stop' not in text
                assert text.count('"content"') == 3
                assert '"error"' in text.split("\n\n")[-3]
                assert text.endswith("\n\ndata: [DONE]\n\n")
    measured(
        "worker dies mid-stream",
        "error event and [DONE] within 1 s, never a finish_reason",
        f"{len(waits)} of {len(waits)}; the end came after {at(waits, 0.5):.2f} s (median), {max(waits):.2f} s at most",
    )


async def test_a_death_before_the_first_byte_is_a_real_error(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": {"m": model("--die-after=0")}}) as house:
        await house.load("m")
        answer = await house.ask("m")
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "worker_died"


async def test_clients_who_leave_stop_the_work(tmp_path: Path, measured: Measured) -> None:
    many, log = times(10, 500), tmp_path / "log"
    slow = model("--token-seconds=0.02", "--load=0.5", f"--log={log}", parallel=100)
    chance = random.Random(1)
    async with running(tmp_path, {"models": {"m": slow}}) as house:

        async def come_and_go() -> None:
            body = {"model": "m", "messages": [], "stream": True, "n": 500}
            try:
                async with asyncio.timeout(chance.uniform(0.01, 1.5)):
                    async with house.http.stream("POST", "/v1/chat/completions", json=body) as response:
                        async for _ in response.aiter_bytes():
                            pass
            except TimeoutError:
                return

        for _ in range(0, many, 50):
            await asyncio.gather(*(come_and_go() for _ in range(min(50, many))))
        began = time.monotonic()
        while (status := await house.status("m"))["in_flight"] + status["queued"]:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.01)
        left = time.monotonic() - began
        assert status["state"] == "ready"
        async with asyncio.timeout(20):
            while "done" not in log.read_text():  # one whole answer at last: the others were given up, or never began
                await house.ask("m", n=1, stream=True)
        said = Counter(log.read_text().split())
        assert said["done"] == 1
        assert said["start"] == 1
    measured(
        "clients leave at random moments",
        "generation stops within 1 s",
        f"{many} left, {said['cancelled']} of them in mid-answer; none was left {left:.2f} s after the last",
    )


async def test_a_client_who_leaves_is_noticed_in_every_phase(tmp_path: Path) -> None:
    """While the model loads, in the line, before the first byte, in mid-answer."""
    gate, never = tmp_path / "gate", str(tmp_path / "never")
    log, late_log = tmp_path / "log", tmp_path / "late"
    models = {"m": model(f"--log={log}", parallel=1), "late": model(f"--load-until={gate}", f"--log={late_log}")}

    async def leaves(task: asyncio.Task[Any], name: str, what: str) -> dict[str, Any]:
        task.cancel()
        await asyncio.wait({task})
        async with asyncio.timeout(PATIENCE):
            while (status := await house.status(name))[what]:
                await asyncio.sleep(0.01)
        return status

    async def said(word: str, times: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while Counter(log.read_text().split())[word] < times:
                await asyncio.sleep(0.01)

    async with running(tmp_path, {"models": models}) as house:
        asking = asyncio.create_task(house.ask("late"))
        await house.until("late", "loading")
        assert (await leaves(asking, "late", "queued"))["state"] == "loading"
        gate.touch()
        await house.until("late", "ready")

        first = asyncio.create_task(house.ask("m", until=never))
        await house.busy("m")
        second = asyncio.create_task(house.ask("m"))
        while not (await house.status("m"))["queued"]:
            await asyncio.sleep(0.01)
        assert (await leaves(second, "m", "queued"))["in_flight"] == 1
        await said("asked", 1)
        await leaves(first, "m", "in_flight")
        await said("cancelled", 1)

        body = {"model": "m", "messages": [], "stream": True, "n": 1, "until": never}
        async with house.http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert '"content"' in await anext(response.aiter_text())
        await said("cancelled", 2)
        assert (await house.ask("m", n=1)).status_code == 200
    assert Counter(log.read_text().split())["asked"] == 3
    assert "asked" not in late_log.read_text()


async def test_overload_is_refused_at_once_and_the_gateway_stays_quick(tmp_path: Path, measured: Measured) -> None:
    """Ten times as many requests as the model can serve (4 at once, 0.2 s each), at a fixed rate, from elsewhere."""
    seconds, rate = times(2, 60), 200
    models = {"m": model("--token-seconds=0.05", parallel=4, queue=8), "other": model()}
    async with running(tmp_path, {"models": models}) as house:
        await house.load("m")
        await house.load("other")
        crowd = asyncio.create_task(crowded(house, seconds, rate, {"model": "m", "messages": [], "n": 4}))
        while not crowd.done():
            assert (await house.ask("other", n=1)).status_code == 200  # nobody else waits for the crowd
            await asyncio.sleep(0.1)
        told = await crowd
    codes, refused, health = told["codes"], told["refused"], told["health"]
    assert set(codes) == {"200", "429"}
    assert sum(codes.values()) == seconds * rate
    assert codes["429"] > codes["200"]
    assert min(told["hints"]) >= 1
    measured(
        f"10x overload for {seconds} s",
        "only 200/429/503; rejections p99 under 50 ms; /health under 100 ms",
        f"{codes['200']} x 200, {codes['429']} x 429; rejections p50 {1000 * at(refused, 0.5):.1f} ms, "
        f"p99 {1000 * at(refused, 0.99):.1f} ms, {1000 * max(refused):.0f} ms at most; /health p99 "
        f"{1000 * at(health, 0.99):.1f} ms, {1000 * max(health):.0f} ms at most; {rate} requests/s at a fixed rate, "
        f"from a process of their own on the same cores, {1000 * at(told['late'], 0.99):.1f} ms late themselves (p99)",
    )


async def test_a_stopping_gateway_answers_and_lets_requests_end(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(tmp_path, {"models": {"m": model(parallel=1)}}) as house:
        await house.load("m")
        running_one = asyncio.create_task(stream(house, "m", n=15, until=str(gate)))
        await house.busy("m")
        waiting = asyncio.create_task(house.ask("m"))
        while not (await house.status("m"))["queued"]:
            await asyncio.sleep(0.01)
        house.process.terminate()
        told = await waiting
        assert (told.status_code, told.json()["error"]["code"]) == (503, "shutting_down")
        late = await house.ask("m")
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        gate.touch()
        text, _ = await running_one
        assert text.count('"content"') == 15
        assert text.endswith("data: [DONE]\n\n")


async def test_a_slow_reader_holds_up_nobody_and_nothing_piles_up(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": {"m": model(parallel=2)}}) as house:
        await house.load("m")
        body = {"model": "m", "messages": [], "stream": True, "n": 400_000}
        async with house.http.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_raw())  # and then nothing is read
            for _ in range(20):
                assert (await house.ask("m", n=1)).status_code == 200
            memory = sum(p.memory_info().rss for p in house.shims()) + await own_memory(house)
            assert memory < 300 * 2**20
        await house.until("m", "ready")


async def own_memory(house: House) -> int:
    import psutil

    return int(psutil.Process(house.process.pid).memory_info().rss)


async def test_a_broken_connection_is_never_sent_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(tmp_path, {"models": {"m": model("--die-after=0", f"--log={log}")}}) as house:
        await house.load("m")
        assert (await house.ask("m")).status_code == 502
        assert log.read_text().count("asked") == 1
        with_next: httpx2.Response = await house.ask("m")
        assert with_next.status_code in (502, 503)
        assert len([line for line in log.read_text().splitlines() if line.startswith("start")]) <= 2
