"""Requests that still reach a gateway after another has taken its place, on connections that clients keep open."""

from __future__ import annotations

import aiohttp
import yarl
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bainmarie.api.errors import answer
from bainmarie.asgi import ClientLeft, while_connected
from bainmarie.errors import GatewayUnreachable

_OF_ONE_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"date", b"server"}
)


class Forward:
    """ASGI middleware. Once `to` is set, every new request is answered by the gateway there, as it answers it.

    The client's connection is closed after that: its next request goes to the other gateway by itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.to = ""
        """Address of the other gateway; empty while there is none."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.to:
            await self._app(scope, receive, send)
            return
        body = await _whole(receive)
        if body is None:
            return
        to = self.to
        if not to:  # the other one has died meanwhile, before it served
            await self._app(scope, _again(body, receive), send)
            return
        try:
            await while_connected(receive, self._pass_on(to, scope, body, send))
        except ClientLeft:
            return
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError) as error:  # before its answer began
            refusal = GatewayUnreachable(f"the gateway that has taken over does not answer: {error}")
            await answer(refusal)(scope, receive, send)

    async def _pass_on(self, to: str, scope: Scope, body: bytes, send: Send) -> None:
        path = scope["raw_path"].decode("latin-1") + ("?" + scope["query_string"].decode("latin-1")).rstrip("?")
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )
        async with (
            session,
            session.request(
                scope["method"],
                yarl.URL(to + path, encoded=True),
                data=body or None,
                headers=[(n.decode("latin-1"), v.decode("latin-1")) for n, v in _of_the_message(scope["headers"])],
                allow_redirects=False,
            ) as response,
        ):
            headers = [*_of_the_message(response.raw_headers), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _of_the_message(headers: object) -> list[tuple[bytes, bytes]]:
    """Without those that concern a connection, or that the server adds."""
    return [(n, v) for n, v in headers if n.lower() not in _OF_ONE_CONNECTION]  # type: ignore[attr-defined]


async def _whole(receive: Receive) -> bytes | None:
    """The request's body; None where the client left before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """As `receive` was before the body was read."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
