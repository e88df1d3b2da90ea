"""The worker process, started as `python -I -m bainmarie_worker`; where it is not installed, `main` is called.

stdin     First line: a `WorkerConfig` as JSON. Then nothing; its end means "nobody needs you": the process ends at
          once with status 0, also in the middle of a load (there by SIGIO where the system can, see exit).
stdout    Event lines only (`bainmarie_protocol.events`), in this order:
          `Listening`   the socket accepts connections; requests get 503 `loading`. Before torch is imported
          `Progress`    any number, while the model loads (and later, while an adapter loads)
          `Ready`       requests are answered; or
          `Failed`      the model cannot be loaded: exit status 1 follows
          File descriptor 1 is pointed at stderr before anything else runs, so that no print can disturb them.
stderr    The log: warnings, traces, what libraries print.
socket    `WorkerConfig.socket`, mode 0600, made anew if it is there already and removed at the end; or, where that is
          empty, a free loopback port that `Listening` names, with the token.
SIGTERM   Takes no more connections, cancels what runs, exit status 0 (SIGINT alike).
exit      0 asked to stop · 1 `Failed` was sent · 2 the configuration line is wrong · 70 the fake engine's crash ·
          71 a defect in the engine.
          A signal's status when something outside has ended it; SIGIO (Linux) is the end of stdin during the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from bainmarie_protocol import Failed, Listening, Ready, WorkerConfig
from bainmarie_worker import lifeline
from bainmarie_worker.announce import Announcer
from bainmarie_worker.engine.engine import Engine, Report, Runner
from bainmarie_worker.errors import LoadError
from bainmarie_worker.served import Served
from bainmarie_worker.server import build_app

_GRACE = 2
"""Seconds that open answers have to notice their cancellation after SIGTERM."""


def main() -> None:
    """Never returns: the engine's thread may be deep in C code, so the process ends with os._exit."""
    announcer = Announcer(os.dup(1))
    os.dup2(2, 1)
    stdin = lifeline.take_stdin()
    try:
        config = WorkerConfig.from_json(lifeline.read_line(stdin))
    except (EOFError, ValueError, TypeError, KeyError) as error:
        sys.stderr.write(f"bainmarie_worker: no configuration on stdin: {error}\n")
        _exit(2)
    with _bound(config) as listener:
        lifeline.hold(stdin, lambda: _remove(config.socket))
        lifeline.end_without_gil(stdin, True)
        code = asyncio.run(_serve(config, listener, announcer, lambda: lifeline.end_without_gil(stdin, False)))
    _exit(code)


async def _serve(
    config: WorkerConfig, listener: socket.socket, announcer: Announcer, on_loaded: Callable[[], None]
) -> int:
    """Serves until told to stop; the exit status. `on_loaded` comes just before `Ready`."""
    engine = Engine(_loader(config), queue_limit=config.queue)
    app = build_app(engine, Served(config.models), config.token)
    port = 0 if config.socket else listener.getsockname()[1]
    loop = asyncio.get_running_loop()
    status = 0

    def listening() -> None:
        announcer.send(Listening(os.getpid(), port))
        engine.start(announcer.progress, ready, failed)

    def ready() -> None:
        on_loaded()
        announcer.send(Ready(engine.info))

    def failed(error: LoadError) -> None:
        announcer.send(Failed(error.code, error.message, error.hint))
        loop.call_soon_threadsafe(stop, 1)

    def stop(code: int) -> None:
        nonlocal status
        status = code
        server.should_exit = True
        engine.close()

    server = _Server(app, listening)
    if not config.options.get("ignore_term"):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop, 0))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await server.serve(sockets=[listener])
    return status


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, and with a word when it listens."""

    def __init__(self, app: object, on_listening: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=3600,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._on_listening = on_listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()


def _loader(config: WorkerConfig) -> Callable[[Report], Runner]:
    """What the engine's thread calls first; only there is torch imported."""

    def fake(report: Report) -> Runner:
        from bainmarie_worker.fake import load

        return load(config, report)

    def transformers(report: Report) -> Runner:
        from bainmarie_worker.warm import load_and_warm

        return load_and_warm(config, report)

    engines = {"fake": fake, "transformers": transformers}
    if config.engine not in engines:
        raise ValueError(f"unknown engine {config.engine!r}: {', '.join(engines)}")
    return engines[config.engine]


@contextlib.contextmanager
def _bound(config: WorkerConfig) -> Iterator[socket.socket]:
    """The listening socket; a unix socket is never there with a mode other than 0600."""
    if not config.socket:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield listener
        return
    _remove(config.socket)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(config.socket)
        finally:
            os.umask(before)
        listener.listen(2048)
        try:
            yield listener
        finally:
            _remove(config.socket)


def _remove(path: str) -> None:
    if path:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _exit(code: int) -> None:
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
