"""What passes between a client and a worker while it loads, answers, dies, and when the client leaves."""

from __future__ import annotations

import asyncio
import json

import httpx2
import openai
import pytest
from starlette.types import Message

from bainmarie.workers import proxy

from .conftest import Server

CHAT = "/v1/chat/completions"
LONG = " ".join(["word"] * 500)


def body(model: str, text: str = "Hello", **fields: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


async def test_a_ready_models_stream_is_the_workers_own(server: Server) -> None:
    await server.chat("echo")
    async with server.http.stream("POST", CHAT, json=body("echo", stream=True)) as answer:
        text = (await answer.aread()).decode()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert not [line for line in text.splitlines() if line.startswith(":")]
    assert text.endswith("data: [DONE]\n\n")


async def test_while_a_model_loads_a_stream_gets_comments(server: Server) -> None:
    async with server.http.stream("POST", CHAT, json=body("slow", stream=True)) as answer:
        assert server.parts.supervisor.status_of("slow").state in ("preparing", "starting", "loading")
        text = (await answer.aread()).decode()
    comments = [line for line in text.splitlines() if line.startswith(":")]
    assert comments
    assert any(word in comments[0] for word in ("preparing", "starting", "loading"))
    assert text.index(":") < text.index("data:")
    assert text.endswith("data: [DONE]\n\n")
    assert "error" not in text


async def test_a_stream_whose_worker_is_silent_gets_comments_between_its_events(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "HEARTBEAT_SECONDS", 0.05)
    await server.parts.supervisor.load("quiet")
    async with server.http.stream("POST", CHAT, json=body("quiet", "a b", stream=True)) as answer:
        text = (await answer.aread()).decode()
    blocks = text.split("\n\n")
    assert ": still here" in blocks[: blocks.index("data: [DONE]")]
    events = [json.loads(block.removeprefix("data: ")) for block in blocks if block.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == "a b"
    assert blocks[-2:] == ["data: [DONE]", ""]


async def test_openais_client_reads_through_the_comments(server: Server) -> None:
    async with server.openai() as client:
        stream = await client.chat.completions.create(**body("slow", stream=True))  # type: ignore[call-overload]
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert text == "Hello"


async def test_without_a_stream_the_answer_waits_for_the_load(server: Server) -> None:
    answer = await server.chat("slow")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"


async def test_a_load_that_fails_has_its_status_and_its_code(server: Server) -> None:
    answer = await server.chat("broken")
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "model_incomplete"


async def test_a_load_that_fails_after_comments_ends_the_stream_with_its_error(server: Server) -> None:
    async with server.http.stream("POST", CHAT, json=body("broken", stream=True)) as answer:
        text = (await answer.aread()).decode()
    assert answer.status_code == 200
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert json.loads(events[0])["error"]["code"] == "model_incomplete"
    assert events[1:] == ["[DONE]"]


async def test_openais_client_raises_an_error_that_comes_in_the_stream(server: Server) -> None:
    async with server.openai() as client:
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(**body("broken", stream=True)):  # type: ignore[call-overload]
                pass


async def test_a_refused_request_after_comments_is_an_error_event(server: Server) -> None:
    wrong = {"model": "slow", "messages": "nonsense", "stream": True}
    async with server.http.stream("POST", CHAT, json=wrong) as answer:
        text = (await answer.aread()).decode()
    assert answer.status_code == 200
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert json.loads(events[0])["error"]["type"] == "invalid_request_error"
    assert events[1:] == ["[DONE]"]


async def test_a_worker_that_dies_in_a_stream_ends_it_with_an_error(server: Server) -> None:
    await server.parts.supervisor.load("dies")
    async with server.http.stream("POST", CHAT, json=body("dies", "a b c d e f", stream=True)) as answer:
        text = (await answer.aread()).decode()
    assert answer.status_code == 200
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "worker_died"
    assert len(events) > 2


async def test_a_worker_that_dies_before_its_first_byte_is_a_502(server: Server) -> None:
    answer = await server.chat("dies", "a b c d e f")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "worker_died"


async def test_nothing_is_sent_to_a_worker_twice(server: Server) -> None:
    await server.chat("dies", "a b c d e f")
    assert server.parts.supervisor.status_of("dies").restarts == 0


async def running(server: Server, model: str) -> int:
    async with server.parts.supervisor.lease(model) as lease:
        return int(str((await lease.client.json("GET", "/info"))["running"]))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_work(server: Server, stream: bool) -> None:
    await server.parts.supervisor.load("long")

    async def ask() -> None:
        async with server.http.stream("POST", CHAT, json=body("long", LONG, stream=stream)) as answer:
            await answer.aread()

    asking = asyncio.create_task(ask())
    await server.until(lambda: server.parts.supervisor.status_of("long").in_flight == 1)
    while await running(server, "long") == 0:
        pass  # Each look is a request of its own.
    asking.cancel()
    await asyncio.wait((asking,))
    await server.until(lambda: server.parts.supervisor.status_of("long").in_flight == 0)
    while await running(server, "long") > 0:
        pass


async def test_a_reader_that_takes_nothing_loses_its_place(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "_READER_SECONDS", 0.1)
    supervisor, for_ever = server.parts.supervisor, asyncio.Event()
    await supervisor.load("long")

    async def receive() -> Message:
        await for_ever.wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":  # as where the client's buffers are full
            await for_ever.wait()

    asked = json.dumps(body("long", LONG, stream=True)).encode()
    async with asyncio.timeout(60):
        await proxy.PassThrough(supervisor, "long", CHAT, asked, stream=True)({}, receive, send)
    assert supervisor.status_of("long").in_flight == 0
    while await running(server, "long") > 0:
        pass


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_during_a_load_does_not_end_the_load(server: Server, stream: bool) -> None:
    asking = asyncio.create_task(server.http.post(CHAT, json=body("slow", stream=stream)))
    await server.until(lambda: server.parts.supervisor.status_of("slow").state == "loading")
    asking.cancel()
    await asyncio.wait((asking,))
    await server.until(lambda: server.parts.supervisor.status_of("slow").queued == 0)
    assert server.parts.supervisor.status_of("slow").state in ("loading", "ready")
    await server.until(lambda: server.parts.supervisor.status_of("slow").state == "ready")
    assert server.parts.supervisor.status_of("slow").in_flight == 0


async def test_the_clients_key_does_not_reach_the_worker(server: Server) -> None:
    answer = await server.http.post(
        CHAT, json=body("echo"), headers={"Authorization": "Bearer secret", "Cookie": "a=b"}
    )
    assert answer.status_code == 200
    assert "secret" not in answer.text


async def test_many_first_requests_are_one_load_and_all_are_answered(server: Server) -> None:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.address, timeout=60, limits=limits, verify=False) as http:
        answers = await asyncio.gather(*(http.post(CHAT, json=body("slow", f"n{i}")) for i in range(50)))
    assert [a.json()["choices"][0]["message"]["content"] for a in answers] == [f"n{i}" for i in range(50)]
    async with server.parts.supervisor.lease("slow") as lease:
        assert (await lease.client.json("GET", "/info"))["loads"] == 1
    assert server.parts.supervisor.status_of("slow").restarts == 0
