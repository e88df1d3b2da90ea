"""HTTP to one worker: bytes there, bytes back as they come."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, cast

import aiohttp

from bainmarie.errors import BadRequest, BainError, LoadFailed, NotFound, OverCapacity, WorkerDied

_KEEP_CONNECTION = 3.0
"""Seconds an idle connection is kept: shorter than a worker's own limit (5 s), so that none breaks when used again."""


class WorkerClient:
    """One worker's front door. `close` ends all connections; until then it may be used by many at once.

    Exactly one of `socket` (unix) and `port` (loopback, with `token`) is given. `tail` gives the end of the worker's
    log for the error of a broken connection. `keep` is False for a server whose own limit for idle connections is not
    known: each request then has its own.
    """

    def __init__(
        self, *, socket: str = "", port: int = 0, token: str = "", tail: Callable[[], str] = str, keep: bool = True
    ) -> None:
        self._address = "http://worker" if socket else f"http://127.0.0.1:{port}"
        self._tail = tail
        self._cause: BainError | None = None
        self._running = 0
        self._responses = set[aiohttp.ClientResponse]()
        """Whose bodies may still be on their way."""
        self._heard = time.monotonic()
        kept: dict[str, Any] = {"keepalive_timeout": _KEEP_CONNECTION} if keep else {"force_close": True}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(socket, limit=0, **kept)
            if socket
            else aiohttp.TCPConnector(limit=0, **kept),
            headers={"Authorization": f"Bearer {token}"} if token else None,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[WorkerResponse]:
        """Send, and yield when the response's head is here. Any status is a response, not an error.

        Leaving before the body's end closes the connection, which cancels the work in the worker.
        WorkerDied where the connection cannot be made or breaks.
        """
        if not self._running:
            self.hear()
        self._running += 1
        try:
            with self._broken_means_died():
                response = await self._session.request(
                    method, self._address + path, data=body or None, headers=headers, allow_redirects=False
                )
            self.hear()
            self._responses.add(response)
            try:
                yield WorkerResponse(response, self._broken_means_died, self.hear)
            finally:
                self._responses.discard(response)
                if not response.content.at_eof():
                    response.close()
                response.release()
        finally:
            self._running -= 1

    def hear(self) -> None:
        """The worker has shown just now that it works."""
        self._heard = time.monotonic()

    def silent(self) -> float:
        """Seconds for which a worker with requests has sent nothing; 0 for one without."""
        return time.monotonic() - self._heard if self._running else 0.0

    async def json(self, method: str, path: str, obj: object = None) -> dict[str, object]:
        """One JSON question and answer. The worker's error JSON is raised as the BainError of its status."""
        body = b"" if obj is None else json.dumps(obj).encode()
        async with self.request(method, path, body, {"Content-Type": "application/json"}) as response:
            data = await response.read()
        if response.status >= 400:
            raise error_of(response.status, data)
        return cast("dict[str, object]", json.loads(data))

    async def close(self, cause: BainError | None = None) -> None:
        """Requests under way get a WorkerDied; `cause` says in it what is known."""
        self._cause = cause
        for response in self._responses:
            if not response.content.is_eof():  # whoever reads it hears nothing of the session's end (aiohttp 3.14)
                response.content.set_exception(aiohttp.ClientConnectionError("the connection was closed"))
        await self._session.close()

    @contextmanager
    def _broken_means_died(self) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # aiohttp: RuntimeError for a closed connection
            if self._cause is not None:
                raise WorkerDied(self._cause.message, hint=self._cause.hint, code=self._cause.code) from error
            raise WorkerDied(
                f"the connection to the worker broke: {error or type(error).__name__}",
                hint="The next request starts it again.",
                log_tail=self._tail(),
            ) from error


class WorkerResponse:
    """A response whose body may still be on its way; iterate over it, or `read` it whole."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        guard: Callable[[], AbstractContextManager[None]],
        heard: Callable[[], None],
    ) -> None:
        self._heard = heard
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.has_end = response.content_length is not None or "Transfer-Encoding" in response.headers
        """False where the body ends with the connection, so that a death looks like an end (HTTP/1.0)."""
        self._content = response.content
        self._guard = guard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raw chunks as they arrive. WorkerDied where the connection breaks before the end."""
        with self._guard():
            while chunk := await self._content.readany():
                self._heard()
                yield chunk

    async def read(self) -> bytes:
        with self._guard():
            return await self._content.read()


def error_of(status: int, data: bytes) -> BainError:
    """The error that a worker's answer stands for."""
    kinds: dict[int, type[BainError]] = {400: BadRequest, 422: BadRequest, 404: NotFound, 429: OverCapacity}
    try:
        error = json.loads(data)["error"]
        message, code = str(error["message"]), str(error.get("code") or "")
        hint, param = str(error.get("hint") or ""), error.get("param")
    except (ValueError, LookupError, TypeError, AttributeError):
        message, code, hint, param = f"the worker answered {status}: {data[:200]!r}", "", "", None
    kind = kinds.get(status, OverCapacity if code == "over_capacity" else LoadFailed)
    return kind(message, hint=hint, code=code, param=param)
