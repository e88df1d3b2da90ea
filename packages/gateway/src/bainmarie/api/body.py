"""Reading a request's JSON body."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from bainmarie.asgi import ClientLeft
from bainmarie.errors import BadRequest, TooLarge
from bainmarie.settings.values import parse_duration

MAX_BYTES = 32 * 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True)
class Body:
    """A JSON object, and the bytes it came as."""

    raw: bytes
    data: dict[str, Any]

    def required(self, key: str, kind: type[T]) -> T:
        """The value of `key`. BadRequest where it is missing or of another type."""
        value = self.optional(key, kind)
        if value is None:
            raise BadRequest(f"the request needs {key!r}", code="missing_parameter", param=key)
        return value

    def optional(self, key: str, kind: type[T]) -> T | None:
        """As `required`, None where it is missing or null. A whole number passes for float."""
        value = self.data.get(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return value  # type: ignore[return-value]  # An int is a float to a type checker.
        wrong = isinstance(value, bool) and kind is not bool
        if value is not None and (wrong or not isinstance(value, kind)):
            raise BadRequest(
                f"{key!r} must be {_NAMES[kind]}, not {json.dumps(value)[:60]}", code="invalid_type", param=key
            )
        return value

    def keep_alive(self) -> float | None:
        """Seconds the model shall stay after this request, infinity for ever; None where the request does not say."""
        given = self.data.get("keep_alive")
        try:
            return None if given is None else parse_duration(given)
        except ValueError as error:
            raise BadRequest(f"'keep_alive': {error}", code="invalid_value", param="keep_alive") from None


_NAMES: dict[type, str] = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


async def read_body(request: Request) -> Body:
    """BadRequest if it is not a JSON object, TooLarge beyond MAX_BYTES (without reading on)."""
    if (length := request.headers.get("content-length", "")).isdigit() and int(length) > MAX_BYTES:
        raise _too_large()
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > MAX_BYTES:
                raise _too_large()
    except ClientDisconnect:
        raise ClientLeft from None
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object", code="invalid_json")
    return Body(bytes(raw), data)


def _too_large() -> TooLarge:
    return TooLarge(f"the body is larger than {MAX_BYTES // 1024 // 1024} MiB")
