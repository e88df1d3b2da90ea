"""One request handed to a model's worker, its bytes handed back as they come.

    model ready       the worker's own status, headers and bytes, unchanged
    model loading     stream: 200 at once, comments with the progress, then the worker's events
                      else: waits, then as above
    worker silent     a stream gets a comment every 10 s, as while a long prompt is read or others have their turn; its
                      status is 200 from then on
    worker dies       before anything was sent: an error status; in a stream: an error event, then [DONE];
                      in any other body: the connection breaks, so that no half answer passes for a whole one
    client leaves     the connection to the worker closes, which cancels the work there; a load goes on

Nothing is ever sent to a worker twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from bainmarie.asgi import DONE, EVENT_STREAM_HEADERS, HEARTBEAT_SECONDS, ClientLeft, comment, event, while_connected
from bainmarie.errors import BainError, WorkerDied
from bainmarie.workers.client import WorkerResponse, error_of
from bainmarie.workers.states import State
from bainmarie.workers.whole_events import WholeEvents

if TYPE_CHECKING:
    from bainmarie.workers.supervisor import Supervisor

_PATIENCE_SECONDS = 0.25
"""A model that is ready within this time leaves no trace in the stream."""
_COMMENT_SECONDS = 2.0
"""Between two comments while a model loads; 10 s at most are promised."""
_READER_SECONDS = 300.0
"""A client that takes nothing for so long is taken for gone: it holds a turn at the model."""
_REQUEST_HEADERS = {"Content-Type": "application/json"}
"""Nothing of the client's own headers goes on: its key is the gateway's."""
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "date",
        "server",
    )
)


class PassThrough:
    """An ASGI response. Raises BainError and ClientLeft only before anything was sent."""

    def __init__(
        self,
        supervisor: Supervisor,
        model: str,
        path: str,
        body: bytes,
        *,
        stream: bool,
        keep_alive: float | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._model = model
        self._path = path
        self._body = body
        self._stream = stream
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = _Reply(send)
        try:
            await while_connected(receive, self._answer(reply))
        except ClientLeft:
            if not reply.started:
                raise

    async def _answer(self, reply: _Reply) -> None:
        at_worker = asyncio.Event()
        try:
            async with (
                self._told(reply, at_worker),
                self._supervisor.lease(self._model, None, self._keep_alive) as lease,
            ):
                at_worker.set()
                async with lease.client.request("POST", self._path, self._body, _REQUEST_HEADERS) as response:
                    await reply.relay(response)
        except BainError as error:
            if not reply.started:
                raise
            if not reply.events:
                return  # An answer without its end: the server closes the connection.
            await reply.fail(error)
        # After the lease: the server tells the end of the answer as a client that left, which cancels this task.
        await reply.end()

    @asynccontextmanager
    async def _told(self, reply: _Reply, at_worker: asyncio.Event) -> AsyncIterator[None]:
        """A stream gets comments while the block runs; none is under way when it ends."""
        if not self._stream:
            yield
            return
        telling = asyncio.create_task(self._tell(reply, at_worker))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait((telling,))

    async def _tell(self, reply: _Reply, at_worker: asyncio.Event) -> None:
        """Comments: how far the load is, soon and often; else that the request lives, where nothing else was sent."""
        await asyncio.sleep(_PATIENCE_SECONDS)
        with suppress(ClientLeft):  # the answer itself sees that too
            if not at_worker.is_set():
                await reply.comment(self._progress())
            while not reply.started or reply.events:
                loading = not at_worker.is_set() and self._supervisor.status_of(self._model).state != State.READY.value
                left = (_COMMENT_SECONDS if loading else HEARTBEAT_SECONDS) - reply.silent()
                if left > 0:
                    await asyncio.sleep(left)
                else:
                    await reply.comment("still here" if at_worker.is_set() else self._progress())

    def _progress(self) -> str:
        status = self._supervisor.status_of(self._model)
        if status.progress is None:
            return status.state
        fraction = "" if status.progress.fraction is None else f" {status.progress.fraction:.0%}"
        return f"{status.state} {status.progress.stage}{fraction} {status.progress.detail}"


class _Reply:
    """What has been sent to the client so far."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.events = False
        """The body is a stream of server-sent events."""
        self._last = time.monotonic()

    def silent(self) -> float:
        """Seconds since something was sent."""
        return time.monotonic() - self._last

    async def comment(self, text: str) -> None:
        if not self.started:
            await self._start(200, list(EVENT_STREAM_HEADERS))
        await self._write(comment(text))

    async def relay(self, response: WorkerResponse) -> None:
        """All of the worker's answer; its status and headers too if none were sent yet."""
        if self.started and response.status != 200:
            raise error_of(response.status, await response.read())
        if not self.started:
            await self._start(response.status, _forwarded(response.headers))
        if not self.events:
            async for chunk in response:
                await self._write(chunk)
            return
        events = WholeEvents()
        async for chunk in response:
            if whole := events.take(chunk):
                await self._write(whole)
        if not events.ended and not response.has_end:
            raise WorkerDied("the worker's answer ended in the middle", hint="The next request starts it again.")
        if events.rest:
            await self._write(events.rest)

    async def fail(self, error: BainError) -> None:
        await self._write(event(error.to_json()) + DONE)

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        self.events = any(n == b"content-type" and v.startswith(b"text/event-stream") for n, v in headers)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, chunk: bytes) -> None:
        """Waits while the client's buffers are full, so the worker waits too. ClientLeft for one who reads no more."""
        try:
            async with asyncio.timeout(_READER_SECONDS):
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._last = time.monotonic()
        except TimeoutError:
            raise ClientLeft from None


def _forwarded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    lower = ((name.lower(), value) for name, value in headers.items())
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lower if name not in _HOP_BY_HOP]
