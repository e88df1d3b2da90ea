"""What a gateway has while it serves: a socket that accepts, workers, the database. It can be given up and taken back.

leave       accepts nothing more, lets go of workers and database; all of it waits for another gateway
take_back   that one has died before it served: everything is as it was before
"""

from __future__ import annotations

import logging
import socket

from bainmarie.api.parts import Parts
from bainmarie.forward import Forward
from bainmarie.handover import Place
from bainmarie.server import Server

_log = logging.getLogger(__name__)


class Seat:
    """Of one gateway. Requests under way go on, whatever happens here."""

    def __init__(self, place: Place, server: Server, front: Forward, parts: Parts) -> None:
        self._place = place
        self._server = server
        self._front = front
        self._parts = parts
        self._listener = place.listener

    async def leave(self) -> tuple[str, socket.socket, int]:
        """Host, listening socket and lock, for another gateway; the socket is the caller's from then on."""
        kept = self._listener.dup()
        self._server.leave()
        self._listener.close()
        self._front.to = self._parts.gateway.address
        self._parts.supervisor.hand_over()
        await self._parts.runs.pause()  # only one process may have the database open
        return self._place.host, kept, self._place.lock

    async def take_back(self, listener: socket.socket) -> None:
        """`listener` is what `leave` gave."""
        self._listener = listener
        await self._parts.supervisor.take_back()
        self._parts.runs.go_on()
        self._parts.reload.look_again()
        self._front.to = ""
        await self._server.come_back(listener)
        _log.warning("the gateway that was to take over has died before it served; this one serves on")
