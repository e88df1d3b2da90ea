"""POST /generate: one prompt, one text."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bainmarie.api.body import Body, read_body
from bainmarie.api.parts import Parts
from bainmarie.asgi import while_connected
from bainmarie.catalog import ModelSpec
from bainmarie.workers.supervisor import Supervisor
from bainmarie_protocol import paths

DEFAULT_MODEL = "demo"


def routes(parts: Parts) -> list[Route]:
    async def generate(request: Request) -> Response:
        body = await read_body(request)
        spec = parts.catalog.get(body.optional("model", str) or DEFAULT_MODEL)
        path, question = _question(spec, body)
        reply = await while_connected(request.receive, _ask(parts.supervisor, spec, path, question))
        answer = {"text": _text(reply), "model": spec.name}
        return JSONResponse({**answer, "usage": reply["usage"]} if "usage" in reply else answer)

    return [Route("/generate", generate, methods=["POST"])]


async def _ask(supervisor: Supervisor, spec: ModelSpec, path: str, question: dict[str, Any]) -> dict[str, Any]:
    async with supervisor.lease(spec.name) as lease:
        return await lease.client.json("POST", path, question)


def _question(spec: ModelSpec, body: Body) -> tuple[str, dict[str, Any]]:
    """The worker's path and body: a chat of one message, or the bare prompt for a model without a chat template."""
    prompt = body.required("prompt", str)
    sampling = {
        "max_tokens": body.optional("max_new_tokens", int),
        "temperature": body.optional("temperature", float),
        "top_p": body.optional("top_p", float),
        "seed": body.optional("seed", int),
    }
    question = {"model": spec.name, **{key: value for key, value in sampling.items() if value is not None}}
    system = body.optional("system_prompt", str)
    if spec.prompt == "plain":
        return paths.COMPLETIONS, {**question, "prompt": prompt if system is None else f"{system}\n\n{prompt}"}
    messages = [] if system is None else [{"role": "system", "content": system}]
    return paths.CHAT, {**question, "messages": [*messages, {"role": "user", "content": prompt}]}


def _text(reply: dict[str, Any]) -> str:
    choice = reply["choices"][0]
    return (choice["message"]["content"] if "message" in choice else choice["text"]) or ""
