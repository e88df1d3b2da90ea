"""Answers over HTTP that notice when the client leaves: what it asked for is then cancelled, in every phase."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from bainmarie_worker.errors import RequestError
from bainmarie_worker.replies import DONE

Answer = Callable[[Request], Awaitable[Response]]


class Gone(Exception):
    """The client has closed the connection; there is nobody to answer."""


def endpoint(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """Turns a RequestError into its JSON, and cancels `answer` when the client leaves before it returns."""

    async def respond(request: Request) -> Response:
        body = await request.body()
        request.state.body = body
        try:
            return await _unless_gone(request.receive, answer(request))
        except RequestError as error:
            return JSONResponse(error.to_json(), status_code=error.status)
        except Gone:
            return Response(status_code=499)
        except Exception as error:  # noqa: BLE001 - a defect of ours: the client gets it in the shape of all errors
            traceback.print_exc(file=sys.stderr)
            told = RequestError(500, f"{type(error).__name__}: {error}", code="internal", hint="The log has the trace.")
            return JSONResponse(told.to_json(), status_code=500)

    return respond


class EventStream(Response):
    """Sends server-sent events as they come, `DONE` with the last. Closes `events` when they end or the client goes."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _unless_gone(receive, self._send(send))
        except Gone:
            return

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": not data.endswith(DONE)})
        finally:
            await self._events.aclose()  # type: ignore[attr-defined]


async def _unless_gone(receive: Receive, work: Awaitable[Any]) -> Any:
    """The result of `work`; Gone, after `work` was cancelled and has ended, if the client disconnects first."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        leaving.cancel()
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as forgotten


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
