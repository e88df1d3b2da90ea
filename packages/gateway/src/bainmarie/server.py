"""uvicorn's server, with an order of its own for the end, and another where a successor takes over."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

DRAIN_SECONDS = 10
"""How long running requests may take to end after the signal to stop."""
REPLACED_DRAIN_SECONDS = 600
"""The same where another gateway has taken over: nobody waits for this one's end."""

_DRAIN_LOOK = 0.02
"""Between two looks whether requests are left: a signal that forces the end must be seen too."""
_LAST_WORDS = 1
"""For requests that came while the last ones ended; what runs on then is cut."""
_KEPT_SECONDS = 6
"""A client's idle connection is closed after 5 s anyway: until then it may bring one more request."""


class Server(uvicorn.Server):
    """Tells when it has started and when it begins to stop, and takes a second TERM as seriously as a second INT."""

    def __init__(
        self,
        config: uvicorn.Config,
        started: Callable[[], None],
        closing: asyncio.Event,
        drain: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._tell_started = started
        self._closing = closing
        self.replaced = False
        """Another gateway has taken over."""

    def leave(self) -> None:
        """Accept no more connections: they wait for whoever holds a copy of the listening socket.

        The next `stop` then waits for the requests of those that are open, and one more of each.
        """
        self.replaced = True
        for server in self.servers:
            server.close()

    async def come_back(self, listener: socket.socket) -> None:
        """Nobody has taken over: accept connections again, on that copy of the socket."""
        config, state = self.config, self.server_state

        def protocol() -> asyncio.Protocol:  # as uvicorn makes it when it starts
            return config.http_protocol_class(config=config, server_state=state, app_state=self.lifespan.state)  # type: ignore[call-arg]

        loop = asyncio.get_running_loop()
        self.servers = [await loop.create_server(protocol, sock=listener, backlog=config.backlog)]
        self.replaced = False

    def stop(self, *, drain: bool = True) -> None:
        """Stop in order. From any thread."""
        if not drain:
            self.config.timeout_graceful_shutdown = 0
            self.force_exit = self.force_exit or self.replaced
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests in flight end first; who comes meanwhile is answered that the gateway stops, or by its successor."""
        self._closing.set()
        limit = self.config.timeout_graceful_shutdown or 0
        if self.replaced:
            await self._until_ended(REPLACED_DRAIN_SECONDS, _KEPT_SECONDS)
        else:
            self._drain()
            await self._until_ended(limit)
        self.config.timeout_graceful_shutdown = min(limit, _LAST_WORDS)
        await super().shutdown(sockets)

    async def _until_ended(self, limit: float, kept: float = 0) -> None:
        """Returns when no request runs and, for `kept` seconds, no connection is open; or when that takes too long."""
        state, now = self.server_state, asyncio.get_running_loop().time
        began = now()
        while (state.tasks or (state.connections and now() < began + kept)) and now() < began + limit:
            if self.force_exit:
                return
            await asyncio.sleep(_DRAIN_LOOK)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not kept for uvicorn to raise again at its end: what comes after it must still run.
        if self.force_exit:
            os._exit(128 + sig)
        self.force_exit = self.should_exit or self.replaced  # one that has left is on its way out already
        self.should_exit = True
