"""The configuration is edited under load: nobody is dropped, and only what has changed restarts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.conftest import House, model, running, times

Measured = Callable[[str, str, str], None]


async def read_anew(house: House, text: str) -> dict[str, Any]:
    """Writes the file and waits until the gateway has judged it."""
    async with house.http.stream("GET", "/api/events") as events:
        lines = events.aiter_lines()
        while "snapshot" not in await anext(lines):
            pass
        house.configure(text)
        async with asyncio.timeout(20):
            while "event: configuration" not in await anext(lines):
                pass
            return dict(json.loads((await anext(lines)).removeprefix("data: ")))


async def test_edits_under_load(tmp_path: Path, measured: Measured) -> None:
    edits, log, steady_log = times(3, 100), tmp_path / "log", tmp_path / "steady"
    steady = model("--token-seconds=0.01", f"--log={steady_log}")
    answers = Counter[tuple[str, int, int]]()
    over = asyncio.Event()

    def configuration(number: int) -> dict[str, Any]:
        return {"models": {"steady": steady, "edited": model(f"--grow={number}", f"--log={log}")}}

    async with running(tmp_path, configuration(0)) as house:
        await house.load("steady")
        await house.load("edited")

        async def ask(name: str, client: int) -> None:
            number = 0
            while not over.is_set():
                tag = 1_000_000 * client + number
                answer = await house.ask(name, n=3, tag=tag)
                assert answer.status_code == 200, answer.text
                answers[name, tag, answer.json()["choices"][0]["message"]["tag"]] += 1
                number += 1

        clients = [asyncio.create_task(ask(name, n)) for n in range(4) for name in ("steady", "edited")]
        for number in range(1, edits + 1):
            state = await read_anew(house, json.dumps({"version": 1, **configuration(number)}))
            assert state["error"] == ""
        async with asyncio.timeout(60):
            while log.read_text().count("start") < 2:
                await asyncio.sleep(0.05)
        await house.until("edited", "ready")
        over.set()
        await asyncio.gather(*clients)
    assert steady_log.read_text().count("start") == 1
    assert 2 <= log.read_text().count("start") <= edits + 1
    assert all(asked == answered for _, asked, answered in answers)
    assert set(answers.values()) == {1}
    measured(
        f"{edits} configuration edits under load",
        "0 dropped, 0 duplicates, unchanged models never restart",
        f"{len(answers)} requests, each answered once; the edited model started {log.read_text().count('start')} x, "
        "the other once",
    )


async def test_a_broken_file_changes_nothing_and_is_reported_with_its_line(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": {"m": model()}}) as house:
        pid = (await house.load("m"))["pid"]
        state = await read_anew(house, "version: 1\nmodels:\n  m: {modle: x}\n")
        assert f"{tmp_path / 'bain.yaml'}:3:7: unknown key 'modle'" in state["error"]
        assert (await house.http.get("/api/status")).json()["configuration"]["error"] == state["error"]
        assert (await house.status("m"))["pid"] == pid
        state = await read_anew(house, json.dumps({"models": {"m": model(keep_alive="forever")}}))
        assert state["error"] == ""
        assert (await house.status("m"))["pid"] == pid


async def test_models_come_and_go_and_a_changed_one_restarts_after_its_requests(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(tmp_path, {"models": {"m": model(), "old": model()}}) as house:
        pid = (await house.load("m"))["pid"]
        old = (await house.load("old"))["pid"]
        asked = asyncio.create_task(house.ask("m", until=str(gate), tag="before"))
        await house.busy("m")
        changed = {"models": {"m": model("--grow=1"), "new": model(preload=True)}}
        await read_anew(house, json.dumps(changed))
        assert (await house.status("m"))["pid"] == pid  # it still answers
        late = asyncio.create_task(house.ask("m", n=1, tag="after"))
        while not (await house.status("m"))["queued"]:
            await asyncio.sleep(0.01)
        gate.touch()
        assert (await asked).json()["choices"][0]["message"]["tag"] == "before"
        assert (await late).json()["choices"][0]["message"]["tag"] == "after"
        assert (await house.status("m"))["pid"] not in (0, pid)
        await house.until("new", "ready")
        assert (await house.ask("old")).status_code == 404
        async with asyncio.timeout(20):
            while any(process.pid == old for process in house.below()):
                await asyncio.sleep(0.02)
        assert "gateway" in (await read_anew(house, json.dumps({**changed, "gateway": {"port": 1}})))["needs_restart"]


async def test_preloaded_at_the_start(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": {"m": model(preload=True), "n": model()}}) as house:
        await house.until("m", "ready")
        assert (await house.status("n"))["state"] == "unloaded"
