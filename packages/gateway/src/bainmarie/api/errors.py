"""Every error as `{"error": {"message", "type", "code", "param"}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bainmarie.asgi import ClientLeft
from bainmarie.errors import BadRequest, BainError, NotFound, OverCapacity

_log = logging.getLogger(__name__)


class _Internal(BainError):
    code = "internal_error"


class _NoSuchMethod(BadRequest):
    status = 405
    code = "method_not_allowed"


def answer(error: BainError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The error with its status. A full queue says when to try again; other failures tell clients not to by themselves.

    `x-should-retry` is what the OpenAI and Anthropic clients read: a model that cannot load would fail three times.
    """
    if isinstance(error, OverCapacity):
        headers = {"Retry-After": str(error.retry_after), **(headers or {})}
    elif error.status >= 500:
        headers = {"x-should-retry": "false", **(headers or {})}
    return JSONResponse(error.to_json(), error.status, dict(headers or {}))


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, BainError)
    return answer(error)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.scope['path']}"
    if error.status_code == 404:
        return answer(NotFound(f"there is no {where}", hint="GET / names the addresses.", code="unknown_url"))
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        return answer(_NoSuchMethod(f"{where} is not possible", hint=f"Allowed: {allowed.get('Allow', '')}"), allowed)
    return answer(BadRequest(f"{where}: {error.detail}"))


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # Never seen: the client is gone.


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return answer(_Internal(f"the gateway failed: {type(error).__name__}: {error}", hint="See the gateway's log."))


EXCEPTION_HANDLERS: Mapping[Any, Any] = {
    BainError: _ours,
    HTTPException: _framework,
    ClientLeft: _left,
    Exception: _unexpected,
}
