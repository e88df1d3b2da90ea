"""Chat over a real unix socket: streams as workers send them, whole and broken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bainmarie.agent.worker_chat import WorkerChat
from bainmarie.errors import BadRequest, WorkerDied
from bainmarie.workers.client import WorkerClient

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}], **fields}).encode() + b"\n\n"


def part(index: int, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}}]}


Speak = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Callable[[Speak], Awaitable[WorkerChat]]]:
    """Starts a server that answers each request with what `speak` writes."""
    opened: list[Any] = []

    async def start(speak: Speak) -> WorkerChat:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-le")
            )
            await speak(await reader.readexactly(length), writer)
            writer.close()

        socket = str(tmp_path / "worker.sock")
        server = await asyncio.start_unix_server(answer, socket)
        client = WorkerClient(socket=socket)
        opened.extend((server, client))
        return WorkerChat(client, "demo", {"temperature": 0})

    yield start
    for one in reversed(opened):
        closing = one.close()
        if closing is not None:
            await closing


def speaking(*pieces: bytes) -> Speak:
    async def speak(body: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return speak


async def test_text_comes_in_pieces_and_as_a_whole(worker):
    bodies: list[dict[str, Any]] = []

    async def speak(body: bytes, writer: asyncio.StreamWriter) -> None:
        bodies.append(json.loads(body))
        usage = {"prompt_tokens": 7, "completion_tokens": 2}
        stream = chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hé"}) + b": still here\n\n"
        stream += chunk({"content": "llo"}) + chunk({}, "stop")
        stream += b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        stream += b"data: [DONE]\n\n"
        writer.write(HEAD)
        for place in range(len(stream)):  # Cut anywhere: in lines, in characters.
            writer.write(stream[place : place + 1])
            await writer.drain()

    chat = await worker(speak)
    pieces: list[str] = []
    message = await chat([{"role": "user", "content": "Hi"}], [], pieces.append)
    assert pieces == ["Hé", "llo"]
    assert (message.text, message.tool_calls, message.finish_reason) == ("Héllo", (), "stop")
    assert (message.usage.prompt, message.usage.completion) == (7, 2)
    assert bodies[0]["messages"] == [{"role": "user", "content": "Hi"}]
    assert (bodies[0]["model"], bodies[0]["stream"], bodies[0]["temperature"]) == ("demo", True, 0)
    assert "tools" not in bodies[0]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_no_text(worker, name):
    stream = [
        chunk({name: "Hm"}),
        chunk({name: "m."}),
        chunk({"content": "Yes."}),
        chunk({}, "stop"),
        b"data: [DONE]\n\n",
    ]
    chat = await worker(speaking(HEAD, *stream))
    pieces: list[tuple[str, bool]] = []

    def on_delta(text: str, *, reasoning: bool = False) -> None:
        pieces.append((text, reasoning))

    message = await chat([], [], on_delta)
    assert pieces == [("Hm", True), ("m.", True), ("Yes.", False)]
    assert (message.text, message.reasoning) == ("Yes.", "Hmm.")


async def test_calls_are_put_together_by_their_index(worker):
    stream = [
        chunk(part(0, "add", "")),
        chunk(part(0, None, '{"a": ')),
        chunk(part(1, "sub", '{"b"')),
        chunk(part(0, None, "1}")),
        chunk(part(1, None, ": 2")),
        chunk({}, "tool_calls"),
        b"data: [DONE]\n\n",
    ]
    chat = await worker(speaking(HEAD, *stream))
    message = await chat([], [{"type": "function"}], lambda text: None)
    assert [(c.name, c.arguments) for c in message.tool_calls] == [("add", '{"a": 1}'), ("sub", '{"b": 2')]


async def test_half_an_answer_is_an_error(worker):
    chat = await worker(speaking(HEAD, chunk({"content": "Hel"})))
    with pytest.raises(WorkerDied, match="in the middle"):
        await chat([], [], lambda text: None)


async def test_an_error_in_the_stream_is_raised(worker):
    error = b'data: {"error": {"message": "out of memory", "code": "oom", "hint": "Load less."}}\n\n'
    chat = await worker(speaking(HEAD, chunk({"content": "Hel"}), error, b"data: [DONE]\n\n"))
    with pytest.raises(WorkerDied, match="out of memory") as failure:
        await chat([], [], lambda text: None)
    assert (failure.value.code, failure.value.hint) == ("oom", "Load less.")


async def test_the_workers_refusal_is_raised(worker):
    body = b'{"error": {"message": "too long", "code": "context_length_exceeded", "param": "messages"}}'
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    chat = await worker(speaking(head + body))
    with pytest.raises(BadRequest, match="too long") as failure:
        await chat([], [], lambda text: None)
    assert failure.value.code == "context_length_exceeded"


async def test_cancelling_closes_the_connection(worker):
    begun, closed = asyncio.Event(), asyncio.Event()

    async def speak(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk({"content": "Hel"}))
        begun.set()
        try:
            while True:
                writer.write(b": more\n\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        except OSError:
            closed.set()

    chat = await worker(speak)
    talking = asyncio.create_task(chat([], [], lambda text: None))
    await begun.wait()
    talking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await talking
    await asyncio.wait_for(closed.wait(), 30)
