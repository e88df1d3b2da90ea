"""Answers that notice when the client leaves, and server-sent events as bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

T = TypeVar("T")

HEARTBEAT_SECONDS = 10.0
"""Silence of a stream at most: proxies and clients give up on silent connections."""
DONE = b"data: [DONE]\n\n"
EVENT_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class ClientLeft(Exception):
    """Nobody is there to read the answer."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves or the caller is cancelled.

    The request's body must have been read. `work` has ended on return, also when this raises ClientLeft.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        await _end(gone)
        await _end(task)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # Seen by the caller already, or there is nobody left to be told.


def comment(text: str) -> bytes:
    """An SSE comment: read over by every client, keeps the connection alive."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


def event(data: Mapping[str, object], kind: str = "") -> bytes:
    """One server-sent event with JSON data."""
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


class EventStream:
    """An ASGI response that sends `source`'s chunks, comments in between, and ends with `closing` or the client."""

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        closing: asyncio.Event,
        *,
        content_type: str = "",
        heartbeat: bool = True,
    ) -> None:
        self._source = source
        self._closing = closing
        self._content_type = content_type
        self._heartbeat = HEARTBEAT_SECONDS if heartbeat else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientLeft):  # the answer has begun: leaving is how clients end a stream
            await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        headers = list(EVENT_STREAM_HEADERS)
        if self._content_type:
            headers[0] = (b"content-type", self._content_type.encode())
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        pump = asyncio.create_task(self._pump(send))
        closing = asyncio.create_task(self._closing.wait())
        try:
            while not await _any_of(pump, closing, self._heartbeat):
                await send({"type": "http.response.body", "body": comment("still here"), "more_body": True})
            if pump.done():
                pump.result()
        finally:
            await _end(closing)
            await _end(pump)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._source) as source:
            async for chunk in source:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _any_of(pump: asyncio.Task[Any], closing: asyncio.Task[Any], timeout: float | None) -> bool:
    done, _ = await asyncio.wait((pump, closing), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)
