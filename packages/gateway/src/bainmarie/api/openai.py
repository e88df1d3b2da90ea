"""The OpenAI dialect: models, chat completions, completions. Only `model`, `stream`, `keep_alive` are read."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bainmarie.api.body import read_body
from bainmarie.api.parts import Parts
from bainmarie.catalog import ModelSpec
from bainmarie.workers.proxy import PassThrough
from bainmarie_protocol import paths

CREATED = 1767225600
"""OpenAI's clients want a time for each model; a model here has none, so all have this one (2026-01-01)."""


def routes(parts: Parts) -> list[Route]:
    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(spec) for spec in parts.catalog]})

    async def model(request: Request) -> Response:
        return JSONResponse(_model(parts.catalog.get(request.path_params["model"])))

    async def pass_through(request: Request) -> ASGIApp:
        body = await read_body(request)
        spec = parts.catalog.get(body.required("model", str))
        stream = body.optional("stream", bool) or False
        path, keep_alive = request.scope["path"], body.keep_alive()
        return PassThrough(parts.supervisor, spec.name, path, body.raw, stream=stream, keep_alive=keep_alive)

    return [
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", model),
        Route(paths.CHAT, pass_through, methods=["POST"]),
        Route(paths.COMPLETIONS, pass_through, methods=["POST"]),
    ]


def _model(spec: ModelSpec) -> dict[str, object]:
    return {"id": spec.name, "object": "model", "created": CREATED, "owned_by": "bainmarie"}
