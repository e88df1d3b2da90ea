"""The gateway's own state: health, status, events, logs, shutdown."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bainmarie.api.logs import follow, tail
from bainmarie.api.parts import Parts
from bainmarie.asgi import EventStream, event
from bainmarie.errors import BadRequest

DEFAULT_LINES = 200


def routes(parts: Parts) -> list[Route]:
    async def health(request: Request) -> Response:
        stops = parts.closing.is_set()
        told = {"status": "stopping" if stops else "ok", "version": parts.gateway.version}
        return JSONResponse(told, 503 if stops else 200)

    async def status(request: Request) -> Response:
        return JSONResponse(snapshot(parts))

    async def events(request: Request) -> ASGIApp:
        return EventStream(_events(parts), parts.closing)

    async def logs(request: Request) -> ASGIApp:
        name = parts.catalog.get(request.path_params["model"]).name
        lines = _lines(request)
        path = parts.supervisor.log_path(name)
        if request.query_params.get("follow", "0") in ("1", "true"):
            return EventStream(
                follow(path, lines), parts.closing, content_type="text/plain; charset=utf-8", heartbeat=False
            )
        return PlainTextResponse(await tail(path, lines))

    async def shutdown(request: Request) -> Response:
        parts.stop()
        return JSONResponse({"status": "stopping", "pid": parts.gateway.pid}, 202)

    return [
        Route("/health", health),
        Route("/api/status", status),
        Route("/api/events", events),
        Route("/api/models/{model:path}/logs", logs),
        Route("/api/shutdown", shutdown, methods=["POST"]),
    ]


def snapshot(parts: Parts) -> dict[str, object]:
    """What /api/status and `bain status --json` say."""
    return {
        "gateway": asdict(parts.gateway),
        "configuration": asdict(parts.reload.state),
        "fork_servers": [asdict(server) for server in parts.forking.status()] if parts.forking else [],
        "models": [s.to_json() for s in parts.supervisor.status()],
    }


async def _events(parts: Parts) -> AsyncGenerator[bytes, None]:
    """A snapshot, then all that changes after it."""
    async with parts.events.subscribe() as news:
        yield event(snapshot(parts), "snapshot")
        async for kind, data in news:
            yield event(data, kind)


def _lines(request: Request) -> int:
    given = request.query_params.get("tail") or request.query_params.get("lines") or str(DEFAULT_LINES)
    if not given.isdigit():
        raise BadRequest(f"tail must be a number of lines, not {given!r}", param="tail")
    return int(given)
