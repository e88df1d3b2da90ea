"""The gateway as a process: one for each home, on one address, until it is told to stop.

    lock on BAIN_HOME -> bind -> serve -> gateway.json
    -> signal -> no new requests, running ones end -> workers end

First signal (TERM or INT), `POST /api/shutdown`, or the lifeline's end: stop in order. Second signal: requests are cut.
Third: exit at once. Workers end in every case, with SIGKILL too: they watch the gateway.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import uvicorn
from filelock import FileLock, Timeout

from bainmarie.api.parts import GatewayInfo
from bainmarie.app import build_app, build_parts
from bainmarie.arena import share_one_arena
from bainmarie.errors import BainError, GatewayUnreachable
from bainmarie.listening import bind, reachable
from bainmarie.settings import Settings

_log = logging.getLogger(__name__)

DRAIN_SECONDS = 10
"""How long running requests may take to end after the signal to stop."""

_DRAIN_LOOK = 0.02
"""Between two looks whether requests are left: a signal that forces the end must be seen too."""
_LAST_WORDS = 1
"""For requests that came while the last ones ended; what runs on then is cut."""


def serve(
    settings: Settings,
    home: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    lifeline: int | None = None,
    ready: Callable[[GatewayInfo], None] = lambda info: None,
) -> None:
    """Serve until told to stop; every worker has ended on return. Call it in the main thread.

    `host` and `port` go before the settings' own; port 0 takes a free one. `ready` is called once requests are
    answered. `lifeline` is a file descriptor whose end of file stops the gateway, without waiting for requests.
    Raises GatewayUnreachable if another gateway serves this home or the address is taken.
    """
    changes = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update={"gateway": settings.gateway.model_copy(update=changes)})
    _log_to_stderr()
    share_one_arena()
    home.mkdir(parents=True, exist_ok=True)
    with _only_one(home), bind(settings.gateway.host, settings.gateway.port) as listener:
        info = GatewayInfo(address=reachable(listener), home=str(home))
        _serve(settings, home, listener, info, lifeline, ready)


def _serve(
    settings: Settings,
    home: Path,
    listener: socket.socket,
    info: GatewayInfo,
    lifeline: int | None,
    ready: Callable[[GatewayInfo], None],
) -> None:
    server: _Server
    closing = asyncio.Event()
    parts = build_parts(settings, home, info, closing=closing, stop=lambda: server.stop())  # noqa: PLW0108 - made below
    app = build_app(parts)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    file = home / "gateway.json"

    def started() -> None:
        _write(file, info)
        _log.info("gateway %s serves at %s, home %s", info.version, info.address, home)
        ready(info)

    server = _Server(config, started, closing, parts.supervisor.drain)
    if lifeline is not None:
        threading.Thread(target=_watch, args=(lifeline, server), name="lifeline", daemon=True).start()
    with _stopped_by_signals(server):
        try:
            server.run(sockets=[listener])
        except SystemExit:  # uvicorn's way to say that the application did not start
            raise _failed_start(getattr(app.state, "failure", None)) from None
        finally:
            file.unlink(missing_ok=True)
    _log.info("gateway stopped")


def _failed_start(cause: Exception | None) -> BainError:
    if isinstance(cause, BainError):
        return cause
    return GatewayUnreachable(f"the gateway did not start: {cause}", hint="Its log tells more.")


class _Server(uvicorn.Server):
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

    def stop(self, *, drain: bool = True) -> None:
        """Stop in order. From any thread."""
        if not drain:
            self.config.timeout_graceful_shutdown = 0
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests in flight end first; who comes meanwhile is answered that the gateway stops."""
        self._closing.set()
        self._drain()
        limit, now = self.config.timeout_graceful_shutdown or 0, asyncio.get_running_loop().time
        deadline = now() + limit
        while self.server_state.tasks and not self.force_exit and now() < deadline:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_DRAIN_LOOK)
        self.config.timeout_graceful_shutdown = min(limit, _LAST_WORDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not kept for uvicorn to raise again at its end: what comes after it must still run.
        if self.force_exit:
            os._exit(128 + sig)
        self.force_exit = self.should_exit
        self.should_exit = True


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock. The lock goes with the process, however it ends."""
    lock = FileLock(home / "gateway.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise GatewayUnreachable(
            f"a gateway serves {home} already{_who(home)}",
            hint="See `bain status`; stop it with `bain down`.",
            code="gateway_running",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _who(home: Path) -> str:
    try:
        first = json.loads((home / "gateway.json").read_text())
        return f": pid {first['pid']} at {first['address']}"
    except (OSError, ValueError, KeyError):
        return ", which is about to start or to stop"


def _write(file: Path, info: GatewayInfo) -> None:
    """Readers see the old file, the new one, or none."""
    draft = file.with_suffix(f".{info.pid}")
    draft.write_text(json.dumps(asdict(info), indent=1) + "\n", encoding="utf-8")
    draft.replace(file)


def _watch(lifeline: int, server: _Server) -> None:
    while os.read(lifeline, 4096):
        pass
    _log.info("the program that started this gateway has ended")
    server.stop(drain=False)


@contextmanager
def _stopped_by_signals(server: _Server) -> Iterator[None]:
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
