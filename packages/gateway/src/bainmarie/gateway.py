"""The gateway as a process: one for each home, on one address, until it is told to stop.

    lock on BAIN_HOME -> bind -> serve -> gateway.json
    -> signal -> no new requests, running ones end -> workers end
    -> another gateway asks to take over -> it gets lock, socket and workers, and serves -> running requests end

First signal (TERM or INT), `POST /api/shutdown`, or the lifeline's end: stop in order. Second signal: requests are cut.
Third: exit at once. Workers end in every case, with SIGKILL too: they watch the gateway. Only where the configuration
wants that, or another gateway takes over, they wait for the next one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import uvicorn

from bainmarie.api.parts import GatewayInfo
from bainmarie.app import RECORDS, build_app, build_parts
from bainmarie.arena import share_one_arena
from bainmarie.errors import BainError, GatewayUnreachable
from bainmarie.forward import Forward
from bainmarie.handover import Offer, Place, ask
from bainmarie.home_lock import only_one
from bainmarie.listening import bind, reachable
from bainmarie.seat import Seat
from bainmarie.server import DRAIN_SECONDS, Server
from bainmarie.settings import Settings
from bainmarie.workers.sockets import socket_path, tidy

_log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    home: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    lifeline: int | None = None,
    ready: Callable[[GatewayInfo], None] = lambda info: None,
    replaces: Callable[[list[str]], None] | None = None,
) -> bool:
    """Serve until told to stop; every worker has ended on return. Call it in the main thread.

    True where another gateway has taken over, with the workers. `host` and `port` go before the settings' own; port 0
    takes a free one. `ready` is called once requests are answered. `lifeline` is a file descriptor whose end of file
    stops the gateway, without waiting for requests. With `replaces` it takes over from the gateway that serves this
    home, on its address; the function hears which models that one still waits for.
    Raises GatewayUnreachable if another gateway serves this home, or will not hand over, or the address is taken.
    """
    changes = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    settings = _with(settings, changes)
    _log_to_stderr()
    share_one_arena()
    home.mkdir(parents=True, exist_ok=True)
    socket_path(home, "gateway")  # where its folder cannot be used, nobody shall wait for the first request to hear so
    with _place(settings, home, replaces) as place:
        info = GatewayInfo(address=reachable(place.listener), home=str(home))
        serving = _Serving(_with(settings, {"host": place.host}), home, place, info, ready)
        if lifeline is not None:
            threading.Thread(target=_watch, args=(lifeline, serving.server), name="lifeline", daemon=True).start()
        return serving.until_stopped()


def _with(settings: Settings, changes: Mapping[str, object]) -> Settings:
    return settings.model_copy(update={"gateway": settings.gateway.model_copy(update=changes)})


@contextmanager
def _place(settings: Settings, home: Path, replaces: Callable[[list[str]], None] | None) -> Iterator[Place]:
    """Home and address: a former gateway's, or free ones."""
    if replaces is not None:
        settings.catalog()  # what is wrong with it must be known before anything is taken over
        with closing(ask(home, replaces)) as place:
            yield place
        return
    with only_one(home) as lock, bind(settings.gateway.host, settings.gateway.port) as listener:
        yield Place(settings.gateway.host, listener, lock)


class _Serving:
    """A gateway that has its place, from its first request to its last."""

    def __init__(
        self, settings: Settings, home: Path, place: Place, info: GatewayInfo, ready: Callable[[GatewayInfo], None]
    ) -> None:
        self._place = place
        self._info = info
        self._home = home
        self._ready = ready
        self._file = home / "gateway.json"
        self._tasks = set[asyncio.Task[None]]()
        stopping = asyncio.Event()
        self._parts = build_parts(
            settings,
            home,
            info,
            closing=stopping,
            stop=lambda: self.server.stop(),  # noqa: PLW0108 - made below
            takes_over=place.predecessor is not None,
        )
        self._app = build_app(self._parts)
        front = Forward(self._app)
        self.server = Server(_config(front), self._started, stopping, self._drain)
        self._seat = Seat(place, self.server, front, self._parts)
        self._offer = Offer(
            home,
            self._parts.supervisor.unsettled,
            lambda: self._parts.runs.ended(DRAIN_SECONDS),
            self._seat.leave,
            self._take_back,
        )

    def until_stopped(self) -> bool:
        """Returns with the last request's end: whether another gateway has taken over."""
        with _stopped_by_signals(self.server):
            try:
                self.server.run(sockets=[self._place.listener])
            except SystemExit:  # uvicorn's way to say that the application did not start
                raise _failed_start(getattr(self._app.state, "failure", None)) from None
            finally:
                if not self.server.replaced:
                    self._file.unlink(missing_ok=True)
                    for folder in (self._home / "run", self._home / RECORDS):
                        tidy(folder)
        replaced = self.server.replaced
        _log.info("another gateway has taken over; the last request has ended" if replaced else "gateway stopped")
        return replaced

    def _started(self) -> None:
        _write(self._file, self._info)
        _log.info("gateway %s serves at %s, home %s", self._info.version, self._info.address, self._info.home)
        self._parts.supervisor.settle()  # if it dies just here, the one before loads them anew
        self._place.serves()
        if sys.platform != "win32":
            self._tasks.add(asyncio.create_task(self._stand()))
        if self._place.predecessor is not None:
            self._tasks.add(asyncio.create_task(self._outlive()))
        self._ready(self._info)

    async def _stand(self) -> None:
        """Until another gateway serves in this one's place, and no request of this one is at a worker."""
        with await self._offer.stand():
            self.server.stop()
            await self._parts.supervisor.unused()

    async def _outlive(self) -> None:
        await self._place.predecessor_left()
        self._parts.supervisor.predecessor_left()

    def _drain(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._parts.supervisor.drain()

    async def _take_back(self, listener: socket.socket) -> None:
        await self._seat.take_back(listener)
        _write(self._file, self._info)


def _config(front: Forward) -> uvicorn.Config:
    return uvicorn.Config(
        front,
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


def _failed_start(cause: Exception | None) -> BainError:
    if isinstance(cause, BainError):
        return cause
    return GatewayUnreachable(f"the gateway did not start: {cause}", hint="Its log tells more.")


def _write(file: Path, info: GatewayInfo) -> None:
    """Readers see the old file, the new one, or none."""
    draft = file.with_suffix(f".{info.pid}")
    draft.write_text(json.dumps(asdict(info), indent=1) + "\n", encoding="utf-8")
    draft.replace(file)


def _watch(lifeline: int, server: Server) -> None:
    while os.read(lifeline, 4096):
        pass
    _log.info("the program that started this gateway has ended")
    server.stop(drain=False)


@contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """uvicorn listens to signals only while it serves; this covers the moments before and after."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, server.handle_exit) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _log_to_stderr() -> None:
    """Unless the program has set up logging by itself."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
