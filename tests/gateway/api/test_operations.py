"""Health, status, events, logs, shutdown and the page."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import pytest

from bainmarie import __version__
from bainmarie.api.logs import follow, tail
from bainmarie.api.page import policy
from bainmarie.cli.status import fork_server

from .conftest import MODELS, Server, Start, until

FIELDS = {
    *("id", "state", "engine", "environment", "pid", "in_flight", "queued", "restarts", "memory_bytes"),
    *("loaded_at", "last_used_at", "progress", "last_error"),
}


async def test_health(server: Server) -> None:
    assert (await server.http.get("/health")).json() == {"status": "ok", "version": __version__}


async def test_status(server: Server) -> None:
    await server.chat("echo")
    await server.chat("broken")
    status = (await server.http.get("/api/status")).json()
    assert set(status["gateway"]) == {"version", "pid", "address", "home", "started_at"}
    assert status["gateway"]["address"] == server.address
    assert status["gateway"]["pid"] == os.getpid()
    models = {model["id"]: model for model in status["models"]}
    assert list(models) == [spec.name for spec in server.parts.catalog]
    assert all(set(model) >= FIELDS for model in models.values())
    assert models["echo"]["state"] == "ready"
    assert models["echo"]["pid"] != os.getpid()
    assert models["echo"]["last_error"] is None
    assert set(models["broken"]["last_error"]) >= {"code", "message", "hint", "log_tail"}
    assert models["other"]["state"] == "unloaded"


async def test_the_status_tells_fork_servers(server: Server) -> None:
    assert (await server.http.get("/api/status")).json()["fork_servers"] == []
    await server.chat("echo")
    status = (await server.http.get("/api/status")).json()
    (told,) = status["fork_servers"]
    assert set(told) == {"environment", "pid", "workers", "memory_bytes"}
    assert told["workers"] == 1
    echo = next(model for model in status["models"] if model["id"] == "echo")
    assert echo["info"]["start"] == "forked"
    assert told["pid"] not in (os.getpid(), echo["pid"])
    assert "fork server of environment" in fork_server(told)
    assert f"pid {told['pid']}" in fork_server(told)


async def test_fork_servers_can_be_switched_off(start: Start) -> None:
    server = await start(f"{MODELS}workers: {{fork_server: false}}\n")
    await server.chat("echo")
    status = (await server.http.get("/api/status")).json()
    assert status["fork_servers"] == []
    echo = next(model for model in status["models"] if model["id"] == "echo")
    assert echo["info"]["start"] == "fresh process"


async def test_events_begin_with_a_snapshot_and_go_on_with_changes(server: Server) -> None:
    async with server.http.stream("GET", "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: snapshot"
        snapshot = json.loads((await anext(lines)).removeprefix("data: "))
        assert {model["state"] for model in snapshot["models"]} == {"unloaded"}
        await server.http.post("/models/load", json={"model": "slow"})
        states = []
        async for line in lines:
            if line.startswith("data: ") and (model := json.loads(line.removeprefix("data: "))).get("id") == "slow":
                states.append(model["state"])
                if model["state"] == "ready":
                    break
    assert [state for at, state in enumerate(states) if state not in states[:at]][-2:] == ["loading", "ready"]


async def test_open_event_streams_do_not_hold_up_the_end(server: Server) -> None:
    async with server.http.stream("GET", "/api/events") as stream:
        server.parts.closing.set()
        assert "snapshot" in (await stream.aread()).decode()


async def test_a_subscription_ends_with_its_client(server: Server) -> None:
    async with server.http.stream("GET", "/api/events") as stream:
        await anext(stream.aiter_lines())
        assert len(server.parts.events._subscribers) == 1
    await until(lambda: not server.parts.events._subscribers)


async def test_logs(server: Server) -> None:
    await server.chat("echo")
    log = server.parts.supervisor.log_path("echo")
    log.write_text("".join(f"line {n}\n" for n in range(1000)))
    answer = await server.http.get("/api/models/echo/logs", params={"tail": 2})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == "line 998\nline 999\n"
    assert len((await server.http.get("/api/models/echo/logs")).text.splitlines()) == 200
    assert (await server.http.get("/api/models/nope/logs")).status_code == 404
    assert (await server.http.get("/api/models/other/logs")).text == ""
    assert (await server.http.get("/api/models/echo/logs", params={"tail": "x"})).status_code == 400


async def test_logs_can_be_followed(server: Server) -> None:
    log = server.parts.supervisor.log_path("other")
    log.parent.mkdir(exist_ok=True)
    log.write_text("old\nfirst\n")
    async with server.http.stream("GET", "/api/models/other/logs", params={"tail": 1, "follow": 1}) as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "first"
        with log.open("a") as file:
            file.write("second\n")
        assert await anext(lines) == "second"
        log.rename(log.with_suffix(".1"))
        log.write_text("third\n")
        assert await anext(lines) == "third"


@pytest.mark.parametrize(("lines", "kept"), [(0, ""), (1, "c"), (2, "b\nc"), (9, "a\nb\nc")])
async def test_the_tail_of_a_file_without_a_last_newline(tmp_path: Path, lines: int, kept: str) -> None:
    (tmp_path / "log").write_text("a\nb\nc")
    assert await tail(tmp_path / "log", lines) == kept


async def test_the_tail_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    lines = [f"{n} {'x' * 90}\n" for n in range(5000)]
    (tmp_path / "log").write_text("".join(lines))
    assert await tail(tmp_path / "log", 3000) == "".join(lines[-3000:])


async def test_a_file_that_comes_later_is_followed(tmp_path: Path) -> None:
    following = follow(tmp_path / "log", 10)
    first = asyncio.ensure_future(anext(following))
    (tmp_path / "log").write_text("here\n")
    assert await asyncio.wait_for(first, 30) == b"here\n"
    await following.aclose()


async def test_shutdown(server: Server) -> None:
    assert (await server.http.get("/api/shutdown")).status_code == 405
    assert server.stopping == []
    assert (await server.http.post("/api/shutdown")).status_code == 202
    assert server.stopping == [True]


async def test_the_page_runs_nothing_but_its_own_script(start: Start) -> None:
    server = await start("")
    answer = await server.http.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == policy(answer.text)
    assert "default-src 'none'" in policy(answer.text)
    assert "unsafe" not in policy(answer.text)
    assert not re.search(r"(src|href)=|innerHTML|<[^>]*\son[a-z]+=", answer.text)
    for address in ("/v1/chat/completions", "/generate", "/models/load", "/api/status"):
        assert address in answer.text
