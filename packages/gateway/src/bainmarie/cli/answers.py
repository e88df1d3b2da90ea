"""From an HTTP error answer back to the error that the gateway raised, so that exit codes stay the same."""

from __future__ import annotations

import json
from typing import Any

from bainmarie import errors
from bainmarie.errors import (
    ApprovalFailed,
    BadRequest,
    BainError,
    LoadFailed,
    NotFound,
    OverCapacity,
    Refused,
    WorkerDied,
)


class GatewayError(BainError):
    """The gateway itself failed: an answer with status 500 and no code that we know."""


_KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BainError)]
"""Those that are told apart outside; parts of the gateway have some of their own."""
_BY_CODE = {kind.code: kind for kind in _KINDS if kind is not BainError}
_SHARED = (BainError.type, BadRequest.type)
"""Types of several kinds."""
_BY_TYPE = {kind.type: kind for kind in reversed(_KINDS) if kind.type not in _SHARED}
"""The general kind where a special one shares its type: kinds stand before those made of them."""
_BY_STATUS: dict[int, type[BainError]] = {
    401: Refused,
    403: Refused,
    404: NotFound,
    409: ApprovalFailed,
    429: OverCapacity,
    502: WorkerDied,
    503: LoadFailed,
    504: LoadFailed,
}


def to_error(status: int, body: bytes | str) -> BainError:
    """The error of an answer with `status` >= 400, also where its body is not in the OpenAI shape."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace") if isinstance(body, bytes) else body
        return _kind(status, "", "")(f"the gateway answered {status}: {text.strip()[:300] or 'nothing'}")
    return error_from(error, status)


def error_from(error: dict[str, Any], status: int = 500) -> BainError:
    """The error of an `error` object as it stands in answers and in streams."""
    code = str(error.get("code") or "")
    hint = str(error.get("hint") or "")
    if status in (401, 403) and not hint:
        hint = "Set BAIN_API_KEY to one of the configuration's gateway.api_keys."
    return _kind(status, code, str(error.get("type") or ""))(
        str(error.get("message") or "the gateway said no more"),
        hint=hint,
        code=code,
        param=error.get("param"),
        log_tail=str(error.get("log_tail") or ""),
    )


def _kind(status: int, code: str, type: str) -> type[BainError]:
    for found in (_BY_CODE.get(code), _BY_TYPE.get(type)):
        if found is not None:
            return found
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return BadRequest if 400 <= status < 500 else GatewayError
