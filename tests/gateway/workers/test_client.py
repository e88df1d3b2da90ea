"""Bytes there, bytes back: nothing is decoded, nothing is lost, and who leaves early is noticed."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from bainmarie.errors import BadRequest, LoadFailed, NotFound, OverCapacity, WorkerDied
from bainmarie.workers.client import WorkerClient, error_of

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer, socket: Path | None = None) -> AsyncIterator[int]:
    """A server with that one answer; yields its port."""
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.UnixSite(runner, str(socket)) if socket else web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield 0 if socket else runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def a_client(**where: str | int) -> AsyncIterator[WorkerClient]:
    client = WorkerClient(**where, tail=lambda: "the tail")  # type: ignore[arg-type]
    try:
        yield client
    finally:
        await client.close()


async def echo(request: web.Request) -> web.Response:
    body = (await request.read()).decode()
    return web.json_response({"body": body, "path": request.path, "headers": dict(request.headers)})


async def test_loopback_carries_the_token() -> None:
    async with serving(echo) as port, a_client(port=port, token="secret") as client:
        answer = await client.json("POST", "/x", {"a": 1})
    assert (answer["body"], answer["path"]) == ('{"a": 1}', "/x")
    headers = answer["headers"]
    assert isinstance(headers, dict)
    assert headers["Authorization"] == "Bearer secret"
    assert "Accept-Encoding" not in headers


async def test_a_unix_socket_carries_none(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    async with serving(echo, socket), a_client(socket=str(socket)) as client:
        answer = await client.json("GET", "/x")
    assert "Authorization" not in str(answer["headers"])


async def test_bodies_pass_as_they_are(tmp_path: Path) -> None:
    packed = gzip.compress(b"hello")

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"}, status=418)

    async with serving(answer) as port, a_client(port=port) as client, client.request("GET", "/") as response:
        assert (response.status, await response.read()) == (418, packed)
        assert response.headers["content-encoding"] == "gzip"


async def test_chunks_come_as_they_are_sent() -> None:
    more = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await more.wait()
        await response.write(b"two")
        return response

    async with serving(answer) as port, a_client(port=port) as client, client.request("GET", "/") as response:
        chunks = aiter(response)
        assert await anext(chunks) == b"one"
        more.set()
        assert [chunk async for chunk in chunks] == [b"two"]


@pytest.mark.parametrize("head_first", [True, False])
async def test_who_leaves_early_cancels_the_work(head_first: bool) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            if head_first:
                await response.prepare(request)
            began.set()
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return response

    async def ask(client: WorkerClient) -> None:
        async with client.request("POST", "/", b"{}") as response:
            async for _ in response:
                pass

    async with serving(answer) as port, a_client(port=port) as client:
        asking = asyncio.create_task(ask(client))
        await began.wait()
        asking.cancel()
        async with asyncio.timeout(10):
            await cancelled.wait()


async def test_300_at_once() -> None:
    together = asyncio.Barrier(300)

    async def answer(request: web.Request) -> web.Response:
        await together.wait()
        return web.json_response({})

    async with serving(answer) as port, a_client(port=port) as client:
        async with asyncio.timeout(60):
            assert await asyncio.gather(*(client.json("GET", "/") for _ in range(300))) == [{}] * 300


async def test_nobody_is_there(tmp_path: Path) -> None:
    async with a_client(socket=str(tmp_path / "none")) as client:
        with pytest.raises(WorkerDied, match="connection to the worker broke") as caught:
            await client.json("GET", "/")
    assert caught.value.log_tail == "the tail"


@pytest.mark.parametrize("begun", [False, True])
async def test_who_waits_for_more_of_a_body_hears_of_the_end(begun: bool) -> None:
    """The server is still there: nothing but the close tells it."""
    waiting = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if begun:
            await response.prepare(request)
            await response.write(b"one")
        else:
            waiting.set()
        await asyncio.Event().wait()
        return response

    async def read(client: WorkerClient) -> None:
        async with client.request("POST", "/") as response:
            async for _ in response:
                waiting.set()  # and goes on to wait for the next chunk before anybody else runs

    async with serving(answer) as port, a_client(port=port) as client:
        reading = asyncio.create_task(read(client))
        await waiting.wait()
        await client.close(LoadFailed("it hung", code="wedged"))
        with pytest.raises(WorkerDied, match="it hung") as failure:
            await asyncio.wait_for(reading, 20)
        assert failure.value.code == "wedged"


async def test_a_closed_client_is_a_dead_worker() -> None:
    async with a_client(port=1) as client:
        await client.close()
        with pytest.raises(WorkerDied):
            await client.json("GET", "/")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_request", BadRequest),
        (404, "model_not_found", NotFound),
        (429, "over_capacity", OverCapacity),
        (503, "over_capacity", OverCapacity),
        (503, "loading", LoadFailed),
        (500, "internal", LoadFailed),
    ],
)
async def test_the_workers_errors_keep_their_words(status: int, code: str, kind: type[Exception]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(
            {"error": {"message": "m", "code": code, "hint": "h", "param": "p", "type": "t"}}, status=status
        )

    async with serving(answer) as port, a_client(port=port) as client:
        with pytest.raises(kind, match="m") as caught:
            await client.json("GET", "/")
    assert type(caught.value) is kind
    assert json.loads(json.dumps(caught.value.to_json()))["error"]["code"] == code  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"error": "text"}', b"\xff", b"<html>"])
def test_an_answer_that_is_no_error_json(data: bytes) -> None:
    assert "the worker answered 500" in error_of(500, data).message
