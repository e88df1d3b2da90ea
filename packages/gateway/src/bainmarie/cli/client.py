"""A blocking HTTP client to the gateway: JSON calls and event streams, with the gateway's own errors."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from bainmarie.cli.answers import error_from, to_error
from bainmarie.errors import GatewayUnreachable

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

UP_HINT = "Start it with: bain up --detach"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class StreamEvent:
    """One server-sent event with its JSON data; `name` is `message` where the stream gives none."""

    name: str
    data: dict[str, Any]


class EventStream:
    """The events of one answer, as they come. An `error` object in it is raised; `[DONE]` ends the iteration."""

    def __init__(self, response: httpx2.Response, source: Iterator[httpx2.ServerSentEvent]) -> None:
        self._response = response
        self._source = source

    def __iter__(self) -> Iterator[StreamEvent]:
        for event in self._source:
            if event.data == "[DONE]":
                return
            data = json.loads(event.data) if event.data else {}
            if event.event in ("message", "error") and isinstance(data.get("error"), dict):
                raise error_from(data["error"])
            yield StreamEvent(event.event, data)

    def abort(self) -> None:
        """From another thread: whoever iterates gets GatewayUnreachable or the end at once."""
        connection = self._response.extensions["network_stream"].get_extra_info("socket")
        with suppress(OSError):  # Gone already: nothing left to wake.
            connection.shutdown(socket.SHUT_RDWR)


class Client:
    """One connection pool to one gateway. Close it, or use it as a context manager. Usable from several threads.

    `key` is asked for the API key when the gateway first answers 401.
    """

    def __init__(self, url: str, key: Callable[[], str | None] = lambda: os.environ.get("BAIN_API_KEY")) -> None:
        import httpx2

        self.url = url.rstrip("/")
        self._key = key
        self._key_sent = False
        parts = urlsplit(self.url)
        self._http = httpx2.Client(
            base_url=self.url,
            timeout=httpx2.Timeout(10, read=None),
            trust_env=parts.hostname not in LOOPBACK,
            verify=parts.scheme == "https",
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, *, timeout: float | None = None, **params: str | int) -> Any:
        """The JSON answer. Raises what the gateway raised; GatewayUnreachable if it cannot be asked."""
        return self._json("GET", path, None, params, timeout)

    def post(self, path: str, body: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        """As `get`. Waits as long as the gateway does: a model may load first."""
        return self._json("POST", path, body, {}, timeout)

    def healthy(self, timeout: float = 5) -> bool:
        """Whether a gateway answers there."""
        try:
            self.get("/health", timeout=timeout)
        except GatewayUnreachable:
            return False
        return True

    def text(self, path: str, **params: str | int) -> str:
        """The answer's text, for logs."""
        with self._answer("GET", path, None, params, None) as response:
            response.read()
            return response.text

    @contextmanager
    def lines(self, path: str, **params: str | int) -> Iterator[Iterator[str]]:
        """The answer's lines as they come."""
        with self._answer("GET", path, None, params, None) as response:
            yield self._guarded(response.iter_lines())

    @contextmanager
    def events(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **params: str | int
    ) -> Iterator[EventStream]:
        """The answer's events. Leaving the block closes the connection, which cancels the request."""
        import httpx2

        with self._answer(method, path, body, params, None) as response:
            yield EventStream(response, self._guarded(httpx2.EventSource(response)))

    def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None, params: Mapping[str, Any], timeout: float | None
    ) -> Any:
        with self._answer(method, path, body, params, timeout) as response:
            content = b"".join(self._guarded(response.iter_bytes()))
        try:
            return json.loads(content)
        except ValueError:
            raise GatewayUnreachable(
                f"{self.url}{path} did not answer with JSON", hint="Is another program listening there?"
            ) from None

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, params: Mapping[str, Any], timeout: float | None
    ) -> Iterator[httpx2.Response]:
        response = self._send(method, path, body, params, timeout)
        if response.status_code == 401 and not self._key_sent and self._take_key():
            response.close()
            response = self._send(method, path, body, params, timeout)
        try:
            if response.status_code >= 400:
                raise to_error(response.status_code, b"".join(self._guarded(response.iter_bytes())))
            yield response
        finally:
            response.close()

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, params: Mapping[str, Any], timeout: float | None
    ) -> httpx2.Response:
        import httpx2

        limit = httpx2.Timeout(timeout) if timeout else httpx2.USE_CLIENT_DEFAULT
        request = self._http.build_request(method, path, json=body, params=dict(params), timeout=limit)
        try:
            return self._http.send(request, stream=True)
        except httpx2.ConnectError as error:
            raise GatewayUnreachable(f"no gateway answers at {self.url}", hint=UP_HINT) from error
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise self._broken(error) from error

    def _guarded(self, source: Iterable[T]) -> Iterator[T]:
        import httpx2

        try:
            yield from source
        except httpx2.TransportError as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> GatewayUnreachable:
        what = str(error) or type(error).__name__
        return GatewayUnreachable(
            f"the connection to the gateway at {self.url} broke: {what}", hint="See bain status, or " + UP_HINT.lower()
        )

    def _take_key(self) -> bool:
        self._key_sent = True
        key = self._key()
        if not key:
            return False
        self._http.headers["Authorization"] = f"Bearer {key}"
        return True
