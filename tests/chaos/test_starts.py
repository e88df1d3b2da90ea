"""Starts: one for all who ask, one failure for all, growing gaps, no port of somebody else's."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import psutil
from tests.chaos.conftest import House, model, running, times

Measured = Callable[[str, str, str], None]


def starts(log: Path) -> int:
    return log.read_text().count("start") if log.exists() else 0


async def test_many_first_requests_are_one_start(tmp_path: Path, measured: Measured) -> None:
    many, log, broken = times(200, 1000), tmp_path / "log", tmp_path / "broken"
    models = {
        "m": model("--load=0.5", f"--log={log}"),
        "fails": model("--crash=3", f"--log={broken}"),
        "left": model(f"--load-until={tmp_path / 'gate'}", f"--log={log}"),
    }
    async with running(tmp_path, {"models": models, "workers": {"retry_gap": 600}}) as house:
        answers = await asyncio.gather(*(house.ask("m", n=1, tag=n) for n in range(many)))
        assert [a.json()["choices"][0]["message"]["tag"] for a in answers] == list(range(many))
        assert starts(log) == 1
        errors = await asyncio.gather(*(house.ask("fails") for _ in range(many)))
        assert {a.status_code for a in errors} == {503}
        assert len({a.json()["error"]["message"] for a in errors}) == 1
        assert starts(broken) == 1
        callers = [asyncio.create_task(house.ask("left", n=1)) for _ in range(many)]
        await house.until("left", "loading")
        for caller in callers[4:]:
            caller.cancel()
        await asyncio.wait(callers[4:])
        (tmp_path / "gate").touch()
        assert [a.status_code for a in await asyncio.gather(*callers[:4])] == [200] * 4
        assert starts(log) == 2
    measured(
        f"{many} first requests; with a load that fails; {many - 4} of {many} leave",
        "1 start; 1 failure for all; the 4 are served",
        "1 start; 1 failure, the same for all; 4 served",
    )


async def test_a_crash_loop_ends(tmp_path: Path, measured: Measured) -> None:
    log = tmp_path / "log"
    gap = 1.0 if times(0, 1) else 0.05
    async with running(
        tmp_path, {"models": {"m": model("--crash=3", f"--log={log}")}, "workers": {"retry_gap": gap}}
    ) as house:
        while (await house.status("m"))["state"] != "failed" or (await house.status("m"))["last_error"]["retry_at"]:
            answer = await house.ask("m")
            assert answer.status_code == 503
            await asyncio.sleep(gap / 20)
        assert starts(log) == 6
        moments = [float(line.split()[2]) for line in log.read_text().splitlines()]
        gaps = [b - a for a, b in pairwise(moments)]
        assert all(found >= 2**number * gap for number, found in enumerate(gaps)), gaps
        began = time.monotonic()
        told = (await house.ask("m")).json()["error"]
        took = time.monotonic() - began
        assert "out of luck" in told["message"]
        assert starts(log) == 6
    measured(
        "crash loop",
        "growing gaps, at most 6 starts, then failed; then answers in 100 ms with the cause",
        f"6 starts, {', '.join(f'{g:.1f}' for g in gaps)} s apart; then the cause in {1000 * took:.0f} ms",
    )


class PortGrabber(threading.Thread):
    """Takes random ports of the range that is handed out, listens for a moment, and lets go."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.touched = 0

    def run(self) -> None:
        held: list[socket.socket] = []
        chance = random.Random(2)
        while not self.over.wait(0.001):
            try:
                held.append(socket.create_server(("127.0.0.1", chance.randint(20000, 32767))))
            except OSError:
                continue
            if len(held) > 400:
                held.pop(0).close()
        for one in held:
            one.settimeout(0)
            try:
                one.accept()
                self.touched += 1
            except BlockingIOError:
                pass
            one.close()


async def test_ports_are_never_shared(tmp_path: Path, measured: Measured) -> None:
    many = times(5, 200)
    grabber = PortGrabber()
    grabber.start()
    try:
        async with running(tmp_path, {"models": {f"m{n}": model(keep_alive=0) for n in range(5)}}) as house:
            for _ in range(many // 5):
                answers = await asyncio.gather(*(house.ask(f"m{n}", n=1, tag=n) for n in range(5)))
                assert [a.status_code for a in answers] == [200] * 5, [a.text for a in answers]
                assert [a.json()["choices"][0]["message"]["tag"] for a in answers] == list(range(5))
                for n in range(5):
                    await house.until(f"m{n}", "unloaded")
    finally:
        grabber.over.set()
        grabber.join()
    assert grabber.touched == 0
    measured(
        f"{many} starts beside a process that grabs random ports",
        "0 collisions seen by users",
        f"0 of {many}; no request reached the grabber",
    )


async def test_a_hung_load_and_a_stopped_worker_are_found(tmp_path: Path, measured: Measured) -> None:
    models = {
        "hangs": model("--hang"),
        "gil": model("--gil"),
        "stopped": model(),
        "wedged": model("--wedge"),
    }
    limits = {"stall_limit": 2, "silence_limit": 2, "probe_limit": 1, "stop_grace": 0.5, "retry_gap": 0}
    found = {}

    async def told(house: House, name: str, code: str, **body: Any) -> None:
        began = time.monotonic()
        assert (await house.ask(name, **body)).json()["error"]["code"] == code
        found[name] = time.monotonic() - began

    async with running(tmp_path, {"models": models, "workers": limits}) as house:
        pid = (await house.load("stopped"))["pid"]
        asked = asyncio.create_task(told(house, "stopped", "wedged", until=str(tmp_path / "never")))
        await house.busy("stopped")
        psutil.Process(pid).suspend()
        hung = [
            told(house, name, code) for name, code in (("hangs", "stalled"), ("gil", "stalled"), ("wedged", "wedged"))
        ]
        await asyncio.gather(asked, *hung)
        await gone(pid)
        for name in models:
            assert (await house.until(name, "failed"))["pid"] == 0
        assert (await house.ask("stopped", n=1)).status_code == 200
    measured(
        "hung load (limit 2 s), also with the interpreter held; SIGSTOP of a busy worker, a wedged one (limit 3 s)",
        "found within limit x 1.2; tree gone; next request starts fresh",
        ", ".join(f"{name} {found[name]:.1f} s" for name in models),
    )


async def gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while psutil.pid_exists(pid):
            await asyncio.sleep(0.01)


async def test_loads_of_one_model_hold_up_no_other(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": {"slow": model("--load=600"), "quick": model()}}) as house:
        slow = asyncio.create_task(house.ask("slow"))
        await house.until("slow", "loading")
        assert (await house.ask("quick", n=1)).status_code == 200
        slow.cancel()
        assert (await house.status("slow"))["state"] == "loading"


async def test_a_request_may_say_how_long_the_model_stays(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": {"m": model(keep_alive="1h"), "n": model(keep_alive=0)}}) as house:
        assert (await house.ask("n", keep_alive="1h")).status_code == 200
        assert (await house.ask("m", keep_alive="forever")).status_code == 200
        assert (await house.ask("m", keep_alive=0)).status_code == 200
        await house.until("m", "unloaded")
        assert (await house.status("n"))["state"] == "ready"
        refused = await house.ask("m", keep_alive="soon")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "keep_alive")


async def test_answers_are_counted_once(tmp_path: Path) -> None:
    """Nothing is sent to a worker twice: as many answers as questions, each to its own."""
    async with running(tmp_path, {"models": {"m": model()}}) as house:
        answers: list[httpx2.Response] = await asyncio.gather(*(house.ask("m", n=1, tag=n) for n in range(50)))
    assert Counter(a.json()["choices"][0]["message"]["tag"] for a in answers) == Counter(range(50))
