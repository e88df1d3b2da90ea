"""Who may talk to the gateway: API keys, and no web page of somebody else.

A page in the user's own browser can send requests to 127.0.0.1. Two checks keep it out: a request must name this
machine in its Host header (a page whose DNS name was pointed at 127.0.0.1 names its own), and where it brings an
Origin, that must be the gateway's own page.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bainmarie.api.errors import answer
from bainmarie.errors import KeyMissing, Refused
from bainmarie.settings import is_loopback

OPEN_PATHS = frozenset({"/health"})


class Guard:
    """ASGI middleware. `host` is the address the gateway listens on, as it was configured."""

    def __init__(self, app: ASGIApp, *, host: str, api_keys: Sequence[str]) -> None:
        self._app = app
        self._host = host.lower()
        self._any_host = not is_loopback(host)
        self._keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(Headers(scope=scope), scope["path"])
            if refusal is not None:
                headers = {"WWW-Authenticate": "Bearer"} if isinstance(refusal, KeyMissing) else None
                await answer(refusal, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> Refused | None:
        host = headers.get("host", "")
        if not self._host_allowed(host):
            return Refused(
                f"the Host header {host[:100]!r} does not name this gateway",
                hint="Use its IP address or localhost, or set gateway.host.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not _same(origin, host):
            return Refused(
                f"requests of web pages from {origin[:100]!r} are not allowed",
                hint="Programs send no Origin header; pages must come from the gateway itself.",
                code="origin_not_allowed",
            )
        if self._keys and path not in OPEN_PATHS and not self._key_given(headers):
            return KeyMissing(
                "this gateway needs an API key", hint="Send `Authorization: Bearer KEY` with a key of gateway.api_keys."
            )
        return None

    def _host_allowed(self, host: str) -> bool:
        name = _name(host)
        return (
            self._any_host or name == self._host or _is_ip(name) or name == "localhost" or name.endswith(".localhost")
        )

    def _key_given(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every key is compared, whichever fits: the time says nothing.
        return sum(hmac.compare_digest(given.encode(), key) for key in self._keys) > 0


def _name(host: str) -> str:
    """`[::1]:8484` -> `::1`; `a.b:80` -> `a.b`; empty for what is no host."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(origin: str, host: str) -> bool:
    """Whether a page of `origin` was served by `host`, port included."""
    try:
        page, port = urlsplit(origin), urlsplit(origin).port
        own, own_port = _name(host), urlsplit(f"//{host}").port
    except ValueError:
        return False
    default = 443 if page.scheme == "https" else 80
    return bool(own) and (page.hostname or "").rstrip(".") == own and (port or default) == (own_port or default)
