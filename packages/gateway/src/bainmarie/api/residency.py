"""Which models are in memory, as llama.cpp's router serves it: /models, /models/load, /models/unload, /models/sse.

Shapes: llama.cpp tools/server/README.md, "Using multiple models". States of ours map to its values: preparing, starting
and loading are `loading`, ready is `loaded`, failed is `unloaded` with `"failed": true`. Events carry the fields of
`transformers serve` too (status, model, stage, progress.current, progress.total).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bainmarie.api.body import read_body
from bainmarie.api.parts import Parts
from bainmarie.asgi import EventStream, event, while_connected
from bainmarie.errors import BainError

_log = logging.getLogger(__name__)

VALUES = {
    "unloaded": "unloaded",
    "preparing": "loading",
    "starting": "loading",
    "loading": "loading",
    "ready": "loaded",
    "stopping": "unloaded",
    "failed": "unloaded",
}
"""Our state -> `status.value`."""


class Loads:
    """Loads that were asked for and that nobody waits for. They go on when the request has ended."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, name: str) -> None:
        """Return when the load is under way or over. Raises what made it fail at once."""
        async with self._parts.events.subscribe() as news:
            task = asyncio.create_task(self._parts.supervisor.load(name))
            self._tasks.add(task)
            task.add_done_callback(self._over)
            moved = asyncio.create_task(_moved(news, name))
            await asyncio.wait((task, moved), return_when=asyncio.FIRST_COMPLETED)
            moved.cancel()
        if task.done():
            task.result()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, BainError):  # A BainError stands in the model's status.
            _log.error("a load failed", exc_info=error)


def routes(parts: Parts) -> list[Route]:
    loads = Loads(parts)

    async def models(request: Request) -> Response:
        entries = [_entry(status.to_json()) for status in parts.supervisor.status()]
        return JSONResponse({"object": "list", "data": entries})

    async def load(request: Request) -> Response:
        body = await read_body(request)
        name = parts.catalog.get(body.required("model", str)).name
        if body.optional("wait", bool):
            await while_connected(request.receive, parts.supervisor.load(name))
        else:
            await loads.begin(name)
        return JSONResponse({"success": True})

    async def unload(request: Request) -> Response:
        name = parts.catalog.get((await read_body(request)).required("model", str)).name
        await parts.supervisor.unload(name)
        return JSONResponse({"success": True})

    async def sse(request: Request) -> ASGIApp:
        return EventStream(_events(parts), parts.closing)

    return [
        Route("/models", models),
        Route("/models/load", load, methods=["POST"]),
        Route("/models/unload", unload, methods=["POST"]),
        Route("/models/sse", sse),
    ]


async def _moved(news: Any, name: str) -> None:
    async for kind, data in news:
        if kind == "model" and data["id"] == name:
            return


async def _events(parts: Parts) -> AsyncGenerator[bytes, None]:
    async with parts.events.subscribe() as news:
        for status in parts.supervisor.status():
            yield event(_told(status.to_json()))
        async for kind, data in news:
            if kind == "model":
                yield event(_told(data))


def _entry(status: dict[str, Any]) -> dict[str, object]:
    value: dict[str, object] = {"value": VALUES[status["state"]]}
    if status["state"] == "failed":
        value |= {"failed": True, "error": status["last_error"]}
    if value["value"] == "loading" and status["progress"]:
        value["progress"] = status["progress"]
    return {"id": status["id"], "object": "model", "owned_by": "bainmarie", "status": value}


def _told(status: dict[str, Any]) -> dict[str, object]:
    """llama.cpp's `model_status` event, with the fields of `transformers serve` beside it."""
    value = VALUES[status["state"]]
    data: dict[str, object] = {"status": value}
    told: dict[str, object] = {"model": status["id"], "event": "model_status", "data": data, "status": value}
    if status["state"] == "ready":
        told["status"] = "ready"
    if status["state"] == "failed":
        told["status"] = "error"
        data |= {"failed": True, "error": status["last_error"]}
    progress = status["progress"]
    if value == "loading" and progress:
        data["progress"] = {"stages": [progress["stage"]], "current": progress["stage"], "value": progress["fraction"]}
        told["stage"] = progress["stage"]
        if progress["fraction"] is not None:
            told["progress"] = {"current": round(100 * progress["fraction"]), "total": 100}
    return told
