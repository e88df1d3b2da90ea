"""When a server that says no events of ours is ready: its listener is found in its own tree, its health path answers.

What it does is told as our own worker would tell it:

    listening   at once: its process runs
    progress    for each look at its log that finds something new, with the last line; this is what keeps a load alive
    ready       the listener belongs to its process tree, and the health path has answered 200
    exited      as the launcher says it

LoadFailed `port_taken` where somebody else got the port first: no request is ever sent to a stranger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from bainmarie.errors import LoadFailed, WorkerDied
from bainmarie.workers.client import WorkerClient
from bainmarie.workers.launch import LaunchedWorker, LaunchSpec
from bainmarie.workers.ports import is_free, listeners
from bainmarie.workers.tree import below
from bainmarie_protocol import Event, Exited, Listening, Progress, Ready

PORT_TAKEN = "port_taken"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
"""Seconds between two looks at a server that is not ready."""
_HEALTH_LIMIT = 5.0
"""For one answer of the health path."""
_SECOND_LOOK = 0.1
"""A listener outside the tree is looked at twice: a process may have been born between two readings of the system."""
_SAYS_TAKEN = ("address already in use", "eaddrinuse", "only one usage of each socket address")


async def events(launched: LaunchedWorker, spec: LaunchSpec) -> AsyncGenerator[Event, None]:
    """What `launched` says, and what is seen of it. Ends after `Exited`. Close it: two tasks run for it."""
    news: asyncio.Queue[Event | Exception] = asyncio.Queue()
    tasks = [asyncio.create_task(work) for work in (_told(launched, spec, news), _seen(launched, spec, news))]
    try:
        while True:
            found = await news.get()
            if isinstance(found, Exception):
                raise found
            yield found
            if isinstance(found, Exited):
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _told(launched: LaunchedWorker, spec: LaunchSpec, news: asyncio.Queue[Event | Exception]) -> None:
    async for event in launched.events():
        said = isinstance(event, Exited) and (event.code, event.signal) != (None, None)  # else its shim was killed
        if said and spec.door and spec.door.port and _lost_its_port(spec.door.port, launched):
            news.put_nowait(_taken(spec.door.port))
        news.put_nowait(event)


def _lost_its_port(port: int, launched: LaunchedWorker) -> bool:
    """Whether a server that ended did so because somebody was on its port: its tree is gone, so it is not its own."""
    return not is_free(port) or any(words in launched.tail(5).lower() for words in _SAYS_TAKEN)


async def _seen(launched: LaunchedWorker, spec: LaunchSpec, news: asyncio.Queue[Event | Exception]) -> None:
    door = spec.door
    assert door is not None
    news.put_nowait(Listening(0, door.port))
    client = WorkerClient(socket=spec.config.socket, port=door.port, keep=False)
    size, pause = -1, _FIRST_PAUSE
    try:
        while not (await _is_its_own(launched, spec) and await _is_healthy(client, door.health)):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            before, size = size, _size(spec.log)
            if size != before:
                news.put_nowait(Progress("loading", detail=launched.tail(1)[-200:]))
        news.put_nowait(Ready(_info(spec, door.port)))
    except Exception as error:  # noqa: BLE001 - whoever waits for events gets it
        news.put_nowait(error)
    finally:
        await client.close()


async def _is_its_own(launched: LaunchedWorker, spec: LaunchSpec) -> bool:
    """True when the server listens; False when nobody does. LoadFailed where a stranger does."""
    assert spec.door is not None
    port = spec.door.port
    if not port:  # a path in a folder of ours, cleared before the start
        return Path(spec.config.socket).exists()  # noqa: ASYNC240 (one system call)
    ours, others = await asyncio.to_thread(_listeners, launched.pid, port)
    if others:
        await asyncio.sleep(_SECOND_LOOK)
        ours, others = await asyncio.to_thread(_listeners, launched.pid, port)
    if others:
        raise _taken(port)
    return ours > 0


def _listeners(root: int, port: int) -> tuple[int, int]:
    return listeners(port, below(root))


async def _is_healthy(client: WorkerClient, path: str) -> bool:
    with suppress(WorkerDied, TimeoutError):
        async with asyncio.timeout(_HEALTH_LIMIT):
            async with client.request("GET", path) as response:
                await response.read()
                return response.status == 200
    return False


def _taken(port: int) -> LoadFailed:
    return LoadFailed(
        f"port {port} was taken by another program before the server could listen there",
        hint="Load it again: it gets another port. A server that listens outside its own process tree (in a container) "
        "cannot be told from a stranger.",
        code=PORT_TAKEN,
    )


def _size(log: Path) -> int:
    try:
        status = log.stat()
    except OSError:
        return -1
    return status.st_ino ^ (status.st_size << 1)


def _info(spec: LaunchSpec, port: int) -> dict[str, object]:
    where: dict[str, object] = {"port": port} if port else {"socket": spec.config.socket}
    return {"engine": "command", "command": list(spec.argv), **where}
