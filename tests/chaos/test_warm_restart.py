"""A gateway is replaced, or killed, and its workers go on: nothing is loaded twice, no request fails, nothing leaks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.chaos.conftest import House, Measured, at, model, nothing_left, running, times
from tests.chaos.replacing import Stream, alive, another, starts, two_models
from tests.chaos.test_reload import read_anew
from tests.conftest import BAIN, clean_environ

from bainmarie.workers.records import Records
from bainmarie_protocol import PROTOCOL

SURVIVE = {"workers": {"survive": "120s"}}
"""Longer than any start of a gateway; what is left at the end of a test is ended with it."""


async def test_a_gateway_is_replaced_under_a_stream_of_requests(tmp_path: Path, measured: Measured) -> None:
    rounds = times(2, 20)
    async with running(tmp_path, {"models": two_models(tmp_path)}) as house:
        pids = [(await house.load(name))["pid"] for name in "ab"]
        long = asyncio.create_task(house.ask("a", n=200, stream=True))
        clients = Stream(house, 8)
        await clients.more(50)
        gateways = [house.process.pid]
        last = None
        for _ in range(rounds):
            context = another(house, "--replace")
            told = await context.__aenter__()
            assert told["address"] == str(house.http.base_url).rstrip("/"), told
            gateways.append(told["pid"])
            await clients.more(50)
            if last is not None:
                await last.__aexit__(None, None, None)
            last = context
        await clients.end()
        text = (await long).text
        assert '"finish_reason": "stop"' in text
        assert text.endswith("data: [DONE]\n\n")
        assert clients.failed == []
        for name, pid in zip("ab", pids, strict=True):
            status = await house.status(name)
            assert (status["state"], status["pid"]) == ("ready", pid)
            assert len(starts(tmp_path, name)) == 1
        assert (await house.http.get("/api/status")).json()["gateway"]["pid"] == gateways[-1]
        assert await asyncio.to_thread(house.process.wait, 30) == 0
        assert last is not None
        await last.__aexit__(None, None, None)
        assert max(clients.waits) < 2 * len(gateways)  # the bound of one is measured, on an idle machine
    measured(
        "warm restart",
        "a gateway replaced while two models are warm: 0 weights loaded again, requests wait under 2 s, none fails",
        f"replaced {rounds} times under {len(clients.waits)} requests of 8 clients: 0 loads, 0 failed; they waited "
        f"{at(clients.waits, 0.5) * 1000:.0f} ms (median), {max(clients.waits):.2f} s at most",
    )


async def test_a_killed_gateway_leaves_its_workers_to_the_next(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": two_models(tmp_path), **SURVIVE}) as house:
        before = [await house.load(name) for name in "ab"]
        tree = house.below()
        cut = asyncio.create_task(house.ask("a", n=10_000, stream=True))
        await house.busy("a")
        house.process.kill()
        house.process.wait()
        with pytest.raises(httpx2.HTTPError):
            await cut
        _another_release(house)  # of the same protocol
        async with another(house, "--port", str(house.http.base_url.port)) as told:
            for name, old in zip("ab", before, strict=True):
                status = await house.status(name)
                same = ("state", "pid", "loaded_at", "info", "environment_digest")
                assert [status[key] for key in same] == [old[key] for key in same]
                assert status["in_flight"] == 0
                assert (await house.ask(name)).status_code == 200
                assert len(starts(tmp_path, name)) == 1
            assert {process for process in tree if process.is_running()} == tree
            assert "cancelled" in (tmp_path / "a.starts").read_text()  # the worker saw its client leave
            assert psutil.Process(told["pid"]).children(recursive=True) == []
            victim = psutil.Process(before[0]["pid"])
            victim.kill()  # an adopted worker is watched as any other
            failed = await house.until("a", "failed")
            assert "SIGKILL" in failed["last_error"]["message"]
            assert (await house.ask("b", keep_alive=0)).status_code == 200
            await house.until("b", "unloaded")  # nobody waits for requests of the gateway that is dead
            async with asyncio.timeout(20):
                while any(alive(process) for process in tree):
                    await asyncio.sleep(0.01)
            assert (await house.load("b"))["pid"] != before[1]["pid"]


async def test_workers_that_nobody_adopts_end_when_their_time_is_over(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    models = {"a": model("--daemon"), "b": model("--ignore-term", listen="--socket={socket}")}
    async with running(tmp_path, {"models": models, "workers": {"survive": "2s"}}) as house:
        for name in models:
            await house.load(name)
        tree, lived = house.below(), dict[psutil.Process, float]()
        killed = time.monotonic()
        house.process.kill()
        house.process.wait()
        while len(lived) < len(tree):
            lived |= {p: time.monotonic() - killed for p in tree if p not in lived and not alive(p)}
            await asyncio.sleep(0.02)
        assert min(lived.values()) >= 2
        await nothing_left(before)
        records = Records(house.home / "run" / "workers")
        assert not [word for word in words(records) if os.path.exists(records.socket(word))]


async def test_a_worker_that_loads_ends_with_its_gateway(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with running(tmp_path, {"models": {"a": model("--hang")}, **SURVIVE}) as house:
        load = asyncio.create_task(house.http.post("/models/load", json={"model": "a", "wait": True}))
        await house.until("a", "loading")
        house.process.kill()
        house.process.wait()
        with pytest.raises(httpx2.HTTPError):
            await load
        await nothing_left(before)


def with_another_command(configuration: dict[str, Any], house: House) -> None:
    configuration["models"]["a"]["command"].append("--grow=1")


def _unknown(configuration: dict[str, Any], house: House) -> None:
    configuration["models"]["other"] = configuration["models"].pop("a")


def _another_number(configuration: dict[str, Any], house: House) -> None:
    """As if the shim's number had been given to another process since."""
    for file in (house.home / "run" / "workers").glob("*.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"started": record["started"] - 100}))


def _another_boot(configuration: dict[str, Any], house: House) -> None:
    for file in (house.home / "run" / "workers").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"boot": "another"}))


def _another_word(configuration: dict[str, Any], house: House) -> None:
    """The record of one worker under the word of another."""
    for file in (house.home / "run" / "workers").glob("*.json"):
        record, word = json.loads(file.read_text()), "0" * 32
        records = Records(file.parent)
        while not os.path.exists(records.socket(record["word"])):
            time.sleep(0.01)
        os.replace(records.socket(record["word"]), records.socket(word))
        file.rename(file.with_name(f"{word}.json")).write_text(json.dumps(record | {"word": word}))


def _another_release(house: House, **differs: Any) -> None:
    """What a gateway of another release would have written of its workers."""
    for file in (house.home / "run" / "workers").glob("*.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"note": record["note"] | {"version": "0.0.1", **differs}}))


def _another_protocol(configuration: dict[str, Any], house: House) -> None:
    _another_release(house, protocol=PROTOCOL + 1)


@pytest.mark.parametrize(
    ("spoil", "reason", "survive"),
    [
        (with_another_command, "no such model any more, or has changed it", "120s"),
        (_unknown, "no such model any more, or has changed it", "120s"),
        (_another_number, "it ended with its gateway", "120s"),
        (_another_boot, "it ended with its gateway", "2s"),
        (_another_word, "does not know the word", "120s"),
        (_another_protocol, "it belongs to bainmarie 0.0.1, which speaks another protocol", "120s"),
    ],
)
async def test_a_worker_whose_identity_is_not_proven_is_ended(
    tmp_path: Path, spoil: Callable[[dict[str, Any], House], None], reason: str, survive: str
) -> None:
    """At once; where nothing of the record is true, when its time is over."""
    configuration: dict[str, Any] = {
        "models": {"a": model("--log", str(tmp_path / "a.starts"))},
        "workers": {"survive": survive},
    }
    async with running(tmp_path, configuration) as house:
        worker = psutil.Process((await house.load("a"))["pid"])
        house.process.kill()
        house.process.wait()
        spoil(configuration, house)
        house.configure(json.dumps({"version": 1, **configuration}))
        async with another(house, "--port", str(house.http.base_url.port)):
            assert reason in (tmp_path / "another.log").read_text()
            name = next(iter(configuration["models"]))
            assert (await house.status(name))["state"] == "unloaded"
            async with asyncio.timeout(20):
                while alive(worker):
                    await asyncio.sleep(0.01)
            assert (await house.ask(name)).status_code == 200
            assert len(starts(tmp_path, "a")) == 2


async def test_a_gateway_hands_over_when_its_loads_are_done(tmp_path: Path) -> None:
    waits, gate = "hands over once these are loaded or gone: a", tmp_path / "gate"
    models = {"a": model("--log", str(tmp_path / "a.starts"), f"--load-until={gate}"), "b": model()}

    async def load_when_waited_for() -> None:
        log = tmp_path / "another.log"
        while not log.exists() or waits not in log.read_text():
            await asyncio.sleep(0.01)
        gate.touch()

    async with running(tmp_path, {"models": models}) as house:
        asked = asyncio.create_task(house.ask("a"))
        await house.until("a", "loading")
        impatient = subprocess.Popen(
            [str(BAIN), "up", "--replace", "--config", str(tmp_path / "bain.yaml")],
            env=clean_environ(house.home),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert impatient.stderr is not None
        with impatient.stderr as said:
            assert waits in await asyncio.to_thread(said.readline)
            impatient.kill()
            impatient.wait()
        assert (await house.http.get("/api/status")).json()["gateway"]["pid"] == house.process.pid
        assert (await house.ask("b")).status_code == 200
        loading = asyncio.create_task(load_when_waited_for())
        async with another(house, "--replace") as told:
            await loading
            assert (await asked).status_code == 200
            assert (await house.http.get("/api/status")).json()["gateway"]["pid"] == told["pid"]
            assert (await house.status("a"))["state"] == "ready"
            assert len(starts(tmp_path, "a")) == 1


async def test_a_second_signal_ends_a_replaced_gateway_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, {"models": two_models(tmp_path)}) as house:
        await house.load("a")
        long = asyncio.create_task(house.ask("a", n=5000, stream=True))
        await house.busy("a")
        async with another(house, "--replace"):
            assert house.process.poll() is None
            house.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(house.process.wait, 20)
            with pytest.raises(httpx2.HTTPError):
                await long
            async with httpx2.AsyncClient(base_url=house.http.base_url, timeout=20, trust_env=False) as http:
                answer = await http.post("/v1/chat/completions", json={"model": "a", "messages": []})
            assert answer.status_code == 200
            assert len(starts(tmp_path, "a")) == 1


async def test_keep_alive_runs_on(tmp_path: Path) -> None:
    """Each model's own and a request's wish, which goes before it."""
    models = {"a": model(keep_alive="3s"), "b": model(keep_alive=0)}
    async with running(tmp_path, {"models": models}) as house:
        assert (await house.ask("a")).status_code == 200
        used = time.monotonic()
        assert (await house.ask("b", keep_alive="1h")).status_code == 200
        old = await house.status("b")
        async with another(house, "--replace"):
            await house.until("a", "unloaded")
            assert time.monotonic() - used > 2.9
            kept = ("state", "pid", "last_used_at")
            new = await house.status("b")
            assert [new[key] for key in kept] == [old[key] for key in kept]
            assert (await house.ask("b")).status_code == 200
            await house.until("b", "unloaded")


def words(records: Records) -> list[str]:
    found = [record.word for record in records.all()]
    assert found
    return found


async def test_an_adopted_worker_that_hangs_is_found(tmp_path: Path) -> None:
    """As any other: by its silence, while it has requests."""
    limits = {"silence_limit": 1, "probe_limit": 1, "stop_grace": 0.5, "retry_gap": 0}
    async with running(tmp_path, {"models": two_models(tmp_path), "workers": limits}) as house:
        pid = (await house.load("a"))["pid"]
        async with another(house, "--replace"):
            asked = asyncio.create_task(house.ask("a", until=str(tmp_path / "never")))
            await house.busy("a")
            assert (await house.status("a"))["pid"] == pid
            psutil.Process(pid).suspend()
            told = (await asked).json()["error"]
            assert told["code"] == "wedged"
            async with asyncio.timeout(20):
                while psutil.pid_exists(pid):
                    await asyncio.sleep(0.01)
            await house.until("a", "failed")
            assert (await house.ask("a", n=1)).status_code == 200
            assert len(starts(tmp_path, "a")) == 2


async def test_a_request_that_is_passed_on_does_not_hold_the_worker_it_waits_for(tmp_path: Path) -> None:
    """It comes through the old gateway and waits for a new worker, which waits for the old gateway's own request."""
    gate = tmp_path / "gate"
    configuration: dict[str, Any] = {"models": two_models(tmp_path)}
    async with running(tmp_path, configuration) as house:
        await house.load("a")
        limits = httpx2.Limits(max_connections=1)
        async with httpx2.AsyncClient(base_url=house.http.base_url, timeout=60, limits=limits, trust_env=False) as kept:
            asked = asyncio.create_task(house.ask("a", until=str(gate)))
            await house.busy("a")
            assert (await kept.get("/health")).status_code == 200
            async with another(house, "--replace") as told:
                with_another_command(configuration, house)
                await read_anew(house, json.dumps({"version": 1, **configuration}))
                passed_on = asyncio.create_task(kept.post("/v1/chat/completions", json={"model": "a", "messages": []}))
                while not (await house.status("a"))["queued"]:
                    await asyncio.sleep(0.01)
                assert (await house.http.get("/api/status")).json()["gateway"]["pid"] == told["pid"]
                gate.touch()
                assert (await asked).status_code == 200
                assert (await passed_on).status_code == 200
                assert len(starts(tmp_path, "a")) == 2
