"""Runs over HTTP: start one and follow it as server-sent events, decide what it may call, resume and cancel it.

    POST /api/runs                   start; events item, delta, approval, status, and done at the end
    GET  /api/runs                   the newest
    GET  /api/runs/{id}              one of them, with all its items
    GET  /api/runs/{id}/events       follow one that is under way, from its beginning
    POST /api/runs/{id}/resume       {"interactive"?, "stream"?}: go on after a decision or a crash
    POST /api/runs/{id}/cancel
    GET  /api/approvals              every question that waits
    POST /api/approvals/{id}         {"decision": "approve" | "deny", "scope"?: "once" | "session", "reason"?,
                                      "arguments_hash"?}

An interactive run is cancelled when the client that started or resumed it leaves; any other run goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bainmarie.agent.items import Choice
from bainmarie.agent.items import Scope as GrantScope
from bainmarie.agent.request import read_request
from bainmarie.agent.run import Run
from bainmarie.agent.runs import Runs
from bainmarie.api.body import Body, read_body
from bainmarie.asgi import EventStream, event, while_connected
from bainmarie.errors import BadRequest, NotFound

RECENT = 50


def routes(runs: Runs, closing: asyncio.Event) -> list[Route]:
    """`closing` ends the streams when the gateway stops."""

    async def start(request: Request) -> ASGIApp:
        body = await read_body(request)
        stream = _streamed(body)
        run = await runs.start(read_request(body.data))
        return _Followed(run, closing, stream)

    async def resume(request: Request) -> ASGIApp:
        body = await read_body(request)
        stream = _streamed(body)
        run = await runs.resume(request.path_params["run"], body.optional("interactive", bool))
        return _Followed(run, closing, stream)

    async def follow(request: Request) -> ASGIApp:
        run_id = request.path_params["run"]
        run = runs.active(run_id)
        if run is None:
            ended = await runs.described(run_id)
            raise NotFound(f"the run {run_id} is {ended['status']}", hint=f"GET /api/runs/{run_id} tells all of it.")
        return EventStream(_events(run), closing)

    async def recent(request: Request) -> Response:
        return JSONResponse({"runs": await runs.recent(RECENT)})

    async def one(request: Request) -> Response:
        return JSONResponse(await runs.described(request.path_params["run"]))

    async def cancel(request: Request) -> Response:
        return JSONResponse(await runs.cancel(request.path_params["run"]))

    async def waiting(request: Request) -> Response:
        return JSONResponse({"approvals": [asked.to_json() for asked in await runs.approvals.open()]})

    async def decide(request: Request) -> Response:
        body = await read_body(request)
        decided = await runs.approvals.decide(
            request.path_params["approval"],
            cast("Choice", _one_of(body, "decision", ("approve", "deny"))),
            cast("GrantScope", _one_of(body, "scope", ("once", "session"), "once")),
            body.optional("reason", str) or "",
            body.optional("arguments_hash", str) or "",
        )
        return JSONResponse(decided.to_json())

    return [
        Route("/api/runs", start, methods=["POST"]),
        Route("/api/runs", recent),
        Route("/api/runs/{run}", one),
        Route("/api/runs/{run}/events", follow),
        Route("/api/runs/{run}/resume", resume, methods=["POST"]),
        Route("/api/runs/{run}/cancel", cancel, methods=["POST"]),
        Route("/api/approvals", waiting),
        Route("/api/approvals/{approval}", decide, methods=["POST"]),
    ]


class _Followed:
    """An ASGI response that stays with a run to its end, as events or as one JSON answer."""

    def __init__(self, run: Run, closing: asyncio.Event, stream: bool) -> None:
        self._run = run
        self._closing = closing
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._stream:
                await EventStream(_events(self._run), self._closing)(scope, receive, send)
            else:
                done = await while_connected(receive, self._run.ended())
                await JSONResponse(done)(scope, receive, send)
        finally:
            # Here, not in the generator: one that was never begun runs no `finally`.
            # When the gateway stops, it is not the client that left: the run is interrupted then, and can be resumed.
            if self._run.request.interactive and not self._closing.is_set():
                self._run.cancel()


async def _events(run: Run) -> AsyncGenerator[bytes, None]:
    async with aclosing(run.events()) as news:
        async for told in news:
            yield event(told.data, told.kind)


def _streamed(body: Body) -> bool:
    stream = body.optional("stream", bool)
    return True if stream is None else stream


def _one_of(body: Body, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    value = body.optional(key, str) or default
    if value not in allowed:
        raise BadRequest(f"{key!r} must be one of {', '.join(allowed)}", param=key)
    return value
