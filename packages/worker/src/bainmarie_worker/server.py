"""The worker's only HTTP: the paths of `bainmarie_protocol.paths` for one gateway, behind a socket only it can open."""

from __future__ import annotations

import hmac

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bainmarie_protocol import ServedModel, paths
from bainmarie_worker import answer_format
from bainmarie_worker.answers import Asked, answer
from bainmarie_worker.chat import chat_prompt, completion_prompt, forget_adapter, tokenizer_of
from bainmarie_worker.chat_templates import configured
from bainmarie_worker.disconnect import endpoint
from bainmarie_worker.engine.engine import Engine, Tokenizer
from bainmarie_worker.errors import LoadError, RequestError
from bainmarie_worker.replies import ChatReply, CompletionReply
from bainmarie_worker.requests import parse_body, parse_chat, parse_completion
from bainmarie_worker.served import Served
from bainmarie_worker.tool_parsers import Parser, Schemas
from bainmarie_worker.transcripts import Transcripts


def build_app(engine: Engine, served: Served, token: str) -> ASGIApp:
    """The ASGI application. With a `token` every request must bring it; without one the socket's mode is the guard."""
    server = _Server(engine, served)
    routes = [
        Route(paths.CHAT, endpoint(server.chat), methods=["POST"]),
        Route(paths.COMPLETIONS, endpoint(server.completions), methods=["POST"]),
        Route(paths.INFO, endpoint(server.info), methods=["GET"]),
        Route(paths.LOAD, endpoint(server.load), methods=["POST"]),
        Route(paths.UNLOAD, endpoint(server.unload), methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    return _Guard(app, token) if token else app


class _Server:
    def __init__(self, engine: Engine, served: Served) -> None:
        self._engine = engine
        self._served = served
        self._known: dict[Tokenizer, Transcripts] = {}

    async def chat(self, request: Request) -> Response:
        runner = self._engine.runner
        asked = parse_chat(request.state.body)
        model = self._served.get(asked.wish.model)
        tokenizer = tokenizer_of(runner, model)
        transcripts = self._transcripts(tokenizer)
        prompt = chat_prompt(asked, model, runner, transcripts)

        template = "" if model.prompt == "plain" else tokenizer.template
        schemas = Schemas(asked.tools)

        def parser() -> Parser | None:
            return answer_format.parser_for(template, prompt.text, schemas, inline=asked.inline)

        made = Asked(asked.wish, prompt, tokenizer, ChatReply, parser)
        return await answer(self._engine, made, model.name, transcripts.note)

    async def completions(self, request: Request) -> Response:
        runner = self._engine.runner
        asked = parse_completion(request.state.body)
        model = self._served.get(asked.wish.model)
        prompt = completion_prompt(asked, model, runner)
        made = Asked(asked.wish, prompt, tokenizer_of(runner, model), CompletionReply, lambda: None)
        return await answer(self._engine, made, model.name, lambda text, ids: None)

    async def info(self, request: Request) -> Response:
        return JSONResponse(self._engine.info)

    async def load(self, request: Request) -> Response:
        model = _served_model(request.state.body)
        adapter = model.adapter
        try:
            configured(model)
            if adapter is not None:
                await self._engine.call(lambda runner, report: runner.load_adapter(adapter, report))
        except LoadError as error:
            raise error.as_request_error() from error
        tokenizer_of(self._engine.runner, model)
        self._served.add(model)
        return JSONResponse({"name": model.name, "loaded": True})

    async def unload(self, request: Request) -> Response:
        name = parse_body(request.state.body).get("name")
        adapter = self._served.remove(str(name))
        if adapter is not None:
            await self._engine.call(
                lambda runner, report: runner.unload_adapter(adapter), unless=lambda runner: runner.uses(adapter)
            )
            for tokenizer in forget_adapter(self._engine.runner, adapter):
                self._known.pop(tokenizer, None)
        return JSONResponse({"name": name, "loaded": False})

    def _transcripts(self, tokenizer: Tokenizer) -> Transcripts:
        if tokenizer not in self._known:
            self._known[tokenizer] = Transcripts(
                lambda text: tokenizer.encode(text, special=False), tokenizer.is_boundary
            )
        return self._known[tokenizer]


def _served_model(body: bytes) -> ServedModel:
    data = parse_body(body)
    try:
        return ServedModel(**data)
    except TypeError as error:
        raise RequestError(400, f"not a served model: {error}", code="invalid_value") from error


class _Guard:
    """Refuses requests without the token, before anything reads them."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                error = RequestError(401, "the token is missing or wrong", code="unauthorized")
                await JSONResponse(error.to_json(), status_code=401)(scope, receive, send)
                return
        await self._app(scope, receive, send)
