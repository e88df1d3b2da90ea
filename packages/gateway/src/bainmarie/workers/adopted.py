"""A shim that another gateway has started, behind the words that asyncio has for a process of its own.

It listens on a unix socket while it waits for a successor; the connection then takes the place of its pipes. Only the
shim holds the other end: when that ends, the shim is dead.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from contextlib import aclosing
from pathlib import Path
from typing import cast

import psutil

from bainmarie.workers.launch import LocalWorker
from bainmarie_protocol import Spawned

_PATIENCE = 20.0
"""For a shim that lives to see that its gateway is gone, and to answer: an instant, but on a busy machine."""
_PAUSE = 0.01


class AdoptionFailed(Exception):
    """The shim cannot be reached, or it is not what its record says."""


async def adopt(word: str, path: str, shim: int, worker: int, log: Path) -> LocalWorker:
    """The worker whose shim has that pid and knows that word. AdoptionFailed; then nothing has changed."""
    try:
        async with asyncio.timeout(_PATIENCE):
            connection = await _connected(path, shim)
            adopted = LocalWorker(log)
            try:
                _check_peer(connection, shim)
                transport, _ = await asyncio.get_running_loop().create_unix_connection(
                    lambda: AdoptedShim(adopted, shim), sock=connection
                )
            except BaseException:
                connection.close()
                raise
            try:
                adopted.say(f"adopt {word}")
                await _check_answer(adopted, worker)
            except BaseException:
                transport.close()
                raise
    except TimeoutError:
        raise AdoptionFailed("its shim does not answer") from None
    except OSError as error:
        raise AdoptionFailed(f"its shim cannot be reached: {error}") from error
    adopted.word = word
    return adopted


async def _connected(path: str, shim: int) -> socket.socket:
    """AdoptionFailed where that shim is dead."""
    if sys.platform == "win32":
        raise AdoptionFailed("this system has no unix sockets")
    loop = asyncio.get_running_loop()
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, path)
        except (FileNotFoundError, ConnectionRefusedError):  # it has not seen yet that its gateway is gone
            connection.close()
            if not _lives(shim):
                raise AdoptionFailed("its shim has ended") from None
            await asyncio.sleep(_PAUSE)
        except BaseException:
            connection.close()
            raise
        else:
            return connection


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _check_peer(connection: socket.socket, shim: int) -> None:
    """Linux tells who listens; elsewhere the socket's folder and the word must do."""
    if sys.platform == "linux":
        (pid,) = struct.unpack_from("i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if pid != shim:
            raise AdoptionFailed(f"process {pid} answers in place of its shim")


async def _check_answer(adopted: LocalWorker, worker: int) -> None:
    async with aclosing(adopted.events()) as events:
        event = await anext(events)
    if event != Spawned(worker):
        raise AdoptionFailed(f"its shim does not know the word, or has another worker: {event}")


class AdoptedShim(asyncio.Protocol, asyncio.SubprocessTransport):
    """Calls the worker's methods as asyncio calls those of any subprocess protocol."""

    def __init__(self, worker: LocalWorker, pid: int) -> None:
        super().__init__()
        self._worker = worker
        self._pid = pid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast("asyncio.Transport", transport)
        self._worker.connection_made(self)

    def data_received(self, data: bytes) -> None:
        self._worker.pipe_data_received(1, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.process_exited()
        self._worker.connection_lost(exc)

    def get_pid(self) -> int:
        return self._pid

    def get_returncode(self) -> int | None:
        return None

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        return self._connection

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on that worker is told."""
        self._worker = cast("LocalWorker", protocol)

    def close(self) -> None:
        """A shim that lives takes that for the end of its gateway."""
        self._connection.close()
