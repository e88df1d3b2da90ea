"""From one gateway to the next: the listening socket and the home's lock, over a unix socket in the home.

    the next    connects, says `{"replace": VERSION}`, and waits
    this one    tells the models that it still waits for, `{"waits_for": [...]}`, each time they change;
                when none is left: `{"host": ...}` with two descriptors, the listening socket and the lock
    the next    says `{"serves": true}` once it does
    this one    closes the connection when none of its requests uses a worker any more, and ends with its last request;
                those that it passes on to the next are not among the former

Until those descriptors are sent nothing has changed: the next may leave, and this one serves on. If the next ends
before it serves, this one takes everything back. No connection of a client is ever refused: those that nobody has
accepted yet wait in the listening socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bainmarie import __version__
from bainmarie.errors import GatewayUnreachable
from bainmarie.workers.sockets import socket_path

_NAME = "gateway"
"""Of the socket, among those of the workers."""
_LOOK = 0.05
"""Seconds between two looks whether a model is still on its way."""
_LINE = 1 << 16
_DESCRIPTORS = 2


@dataclass(frozen=True)
class Place:
    """What only one gateway has: what it leaves to the next."""

    host: str
    """As it was configured."""
    listener: socket.socket
    lock: int
    predecessor: socket.socket | None = None
    """Its end of file tells that the former gateway uses no worker any more."""

    def close(self) -> None:
        """Of what was handed over, on return nothing is ours any more."""
        self.listener.close()
        os.close(self.lock)
        if self.predecessor is not None:
            self.predecessor.close()

    def serves(self) -> None:
        """Tells the former gateway that it may end."""
        if self.predecessor is not None:
            with suppress(OSError):  # it is gone already
                self.predecessor.sendall(_line(serves=True))

    async def predecessor_left(self) -> None:
        """Returns when the former gateway uses no worker any more."""
        assert self.predecessor is not None
        self.predecessor.setblocking(False)
        with suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(self.predecessor, 256):
                pass


def ask(home: Path, waits: Callable[[list[str]], None]) -> Place:
    """What the gateway of that home leaves; it has stopped to accept connections. Blocks until it agrees.

    `waits` hears which models it still waits for. GatewayUnreachable where it cannot be asked.
    """
    if sys.platform == "win32":
        raise _impossible()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(socket_path(home, _NAME))
        connection.sendall(json.dumps({"replace": __version__}).encode() + b"\n")
        return _received(connection, waits)
    except OSError as error:
        connection.close()
        raise GatewayUnreachable(
            f"the gateway of {home} cannot be asked to hand over: {error}",
            hint="It is about to stop, or older than this one: `bain down`, then `bain up`.",
        ) from error
    except BaseException:
        connection.close()
        raise


def _received(connection: socket.socket, waits: Callable[[list[str]], None]) -> Place:
    if sys.platform == "win32":
        raise _impossible()
    rest, descriptors = b"", list[int]()
    while True:
        data, more, _, _ = socket.recv_fds(connection, _LINE, _DESCRIPTORS)
        descriptors += more
        if not data:
            raise ConnectionResetError("it ended meanwhile")
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "waits_for" in told:
                waits(told["waits_for"])
            else:
                listener, lock = descriptors
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                return Place(told["host"], socket.socket(fileno=listener), lock, connection)


class Offer:
    """The readiness of one gateway to be replaced: once, by the first that asks and stays."""

    def __init__(
        self,
        home: Path,
        unsettled: Callable[[], list[str]],
        quiet: Callable[[], Awaitable[None]],
        leave: Callable[[], Awaitable[tuple[str, socket.socket, int]]],
        take_back: Callable[[socket.socket], Awaitable[None]],
    ) -> None:
        """`leave` makes the gateway stop in favour of another; what it returns is sent: host, listener, lock.

        It is called after `quiet`, which waits for a good moment, when `unsettled` names no model. `take_back` gets the
        listener again, where the other has ended before it served.
        """
        self._home = home
        self._unsettled = unsettled
        self._quiet = quiet
        self._leave = leave
        self._take_back = take_back

    async def stand(self) -> socket.socket:
        """Returns when another gateway serves in this one's place; the connection to it is the caller's to close.

        On cancel nobody can ask any more.
        """
        loop = asyncio.get_running_loop()
        while True:
            with _listening(socket_path(self._home, _NAME)) as door:  # anew: one that failed may have had it last
                heir, _ = await loop.sock_accept(door)
                served = False
                try:
                    served = await self._replaced_by(heir)
                finally:
                    if not served:
                        heir.close()
                if served:
                    return heir

    async def _replaced_by(self, heir: socket.socket) -> bool:
        if sys.platform == "win32":
            raise _impossible()
        heir.setblocking(False)
        left = asyncio.create_task(_left(heir))
        try:
            await self._settled(heir, left)
            await self._quiet()
            await self._settled(heir, left)
            if left.done():
                return False
            host, listener, lock = await self._leave()
        finally:
            left.cancel()
        try:
            socket.send_fds(heir, [_line(host=host)], [listener.fileno(), lock])
            served = await _says_that_it_serves(heir)
        except OSError:
            served = False
        if served:
            listener.close()
        else:
            await self._take_back(listener)
        return served

    async def _settled(self, heir: socket.socket, left: asyncio.Task[None]) -> None:
        """Returns when no model is on its way, or the other gateway has left."""
        told = list[str]()
        while (names := self._unsettled()) and not left.done():
            if names != told:
                told = names
                with suppress(OSError):
                    heir.send(_line(waits_for=names))
            await asyncio.sleep(_LOOK)


async def _left(heir: socket.socket) -> None:
    """Returns when it has closed the connection; what it says is not needed: only this user can connect."""
    with suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(heir, 256):
            pass


async def _says_that_it_serves(heir: socket.socket) -> bool:
    """False where it has ended before. While it lives it is waited for: it has the socket that clients come to."""
    said = b""
    while b"\n" not in said:
        data = await asyncio.get_running_loop().sock_recv(heir, 256)
        if not data:
            return False
        said += data
    return True


def _impossible() -> GatewayUnreachable:
    """Where no descriptor can be handed to another process."""
    return GatewayUnreachable("a gateway cannot be replaced on this system", hint="`bain down`, then `bain up`.")


def _line(**told: object) -> bytes:
    return json.dumps(told).encode() + b"\n"


@contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    if sys.platform == "win32":
        raise _impossible()
    with suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(4)
        listener.setblocking(False)
        try:
            yield listener
        except asyncio.CancelledError:  # this gateway ends; one that is replaced leaves the place to the other
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise
