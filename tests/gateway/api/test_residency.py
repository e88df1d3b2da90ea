"""Loading and unloading, as llama.cpp's router has it."""

from __future__ import annotations

import json
from typing import Any

from .conftest import Server


async def values(server: Server) -> dict[str, Any]:
    listed = (await server.http.get("/models")).json()
    assert listed["object"] == "list"
    assert {entry["object"] for entry in listed["data"]} == {"model"}
    return {entry["id"]: entry["status"] for entry in listed["data"]}


async def test_load_answers_at_once_and_unload_when_it_is_done(server: Server) -> None:
    assert (await values(server))["slow"] == {"value": "unloaded"}
    answer = await server.http.post("/models/load", json={"model": "slow"})
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert (await values(server))["slow"]["value"] == "loading"
    await server.until(lambda: server.parts.supervisor.status_of("slow").state == "ready")
    assert (await values(server))["slow"] == {"value": "loaded"}
    assert (await server.http.post("/models/unload", json={"model": "slow"})).json() == {"success": True}
    assert (await values(server))["slow"] == {"value": "unloaded"}


async def test_load_with_wait_answers_when_the_model_is_ready(server: Server) -> None:
    answer = await server.http.post("/models/load", json={"model": "slow", "wait": True})
    assert answer.json() == {"success": True}
    assert (await values(server))["slow"] == {"value": "loaded"}


async def test_both_may_be_repeated(server: Server) -> None:
    for path in ("load", "load", "unload", "unload"):
        answer = await server.http.post(f"/models/{path}", json={"model": "echo", "wait": True})
        assert answer.json() == {"success": True}


async def test_a_load_that_fails_is_told_in_the_list(server: Server) -> None:
    answer = await server.http.post("/models/load", json={"model": "broken"})
    assert answer.json() == {"success": True}
    await server.until(lambda: server.parts.supervisor.status_of("broken").state == "failed")
    status = (await values(server))["broken"]
    assert (status["value"], status["failed"]) == ("unloaded", True)
    assert status["error"]["code"] == "model_incomplete"


async def test_a_failed_model_is_on_its_way_again_when_a_load_is_answered(server: Server) -> None:
    answer = await server.http.post("/models/load", json={"model": "broken", "wait": True})
    assert answer.status_code == 503
    await server.http.post("/models/load", json={"model": "broken"})
    assert server.parts.supervisor.status_of("broken").state != "failed"


async def test_events_tell_the_whole_way_of_a_model(server: Server) -> None:
    told: list[dict[str, Any]] = []
    async with server.http.stream("GET", "/models/sse") as stream:
        lines = stream.aiter_lines()
        async for line in lines:
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: ")))
            if len(told) == len(server.parts.catalog.models):
                break
        assert {event["model"]: event["data"]["status"] for event in told}["slow"] == "unloaded"
        told.clear()
        await server.http.post("/models/load", json={"model": "slow"})
        async for line in lines:
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: ")))
                if told[-1]["model"] == "slow" and told[-1]["status"] == "ready":
                    break
    slow = [event for event in told if event["model"] == "slow"]
    assert {event["event"] for event in slow} == {"model_status"}
    assert [event["data"]["status"] for event in slow if event["data"]["status"] != "loading"] == ["loaded"]
    staged = [event for event in slow if "stage" in event]
    assert staged
    for event in staged:
        assert event["status"] == "loading"
        assert event["data"]["progress"]["current"] == event["stage"]
        if "progress" in event:
            assert 0 <= event["progress"]["current"] <= event["progress"]["total"]
