"""Starting workers from a process that has imported what they need: one fork server for each environment.

The imports of torch and transformers take seconds, all that follows a fraction of one. Whatever keeps a worker from
being forked makes it a fresh process, says so in the log, and in the model's info (`start`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from bainmarie.errors import LoadFailed
from bainmarie.workers.fork_server import ForkServer, ForkServerKey
from bainmarie.workers.forked import ForkedShim
from bainmarie.workers.launch import LaunchedWorker, LaunchSpec, LocalLauncher, LocalWorker
from bainmarie.workers.records import Records
from bainmarie_protocol import Failed, Progress

_log = logging.getLogger(__name__)

_IDLE = 1800.0
"""Seconds for which a fork server without workers is kept: it holds the memory of its imports."""
_ANSWER_ROOM = 15.0
"""How long a stop waits for a fork server that has not come to the start yet, before it ends the server."""
_BROKEN = 600.0
"""Seconds for which no fork server is started in place of one that died by itself."""


@dataclass(frozen=True)
class ForkServerStatus:
    """One fork server at one moment."""

    environment: str
    """Digest of its environment."""
    pid: int
    workers: int
    """How many of its workers live."""
    memory_bytes: int
    """Its share of the pages that it and its workers have in common, and what it has alone."""


class ForkingLauncher:
    """A `Launcher` that forks where it can, and leaves the rest to `fresh`. `close` it after its workers' end."""

    def __init__(self, fresh: LocalLauncher, *, idle: float = _IDLE, answer_room: float = _ANSWER_ROOM) -> None:
        self._fresh = fresh
        self._idle = idle
        self._answer_room = answer_room
        self._servers: dict[ForkServerKey, asyncio.Task[ForkServer]] = {}
        self._broken: dict[ForkServerKey, tuple[float, str]] = {}
        self._asked: dict[LocalWorker, tuple[ForkedShim, ForkServer]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, spec: LaunchSpec) -> LocalWorker:
        """See `Launcher`. Returns before a fork server has done its imports; the worker's events tell the rest."""
        worker = LocalWorker(spec.log)
        reason = self._not_now(spec)
        if spec.fork_server and not reason:
            try:
                settings = await self._fresh.shim_settings(spec)
                await self._ask(await self._server(spec), worker, spec, settings)
            except OSError as error:
                reason = f"no fork server could be started: {error}"
            else:
                return worker
        await self._run_fresh(worker, spec, reason)
        return worker

    async def stop(self, worker: LaunchedWorker, grace: float) -> bool:
        """See `Launcher`."""
        assert isinstance(worker, LocalWorker)
        worker.unwanted = True
        shim, server = self._asked.get(worker, (None, None))
        if shim is not None and server is not None and not shim.forked:
            worker.say(f"stop {grace}")
            await asyncio.wait({worker.ended}, timeout=self._answer_room)
            if not shim.forked and not worker.ended.done():
                _log.warning("fork server %d does not answer and is ended", server.pid)
                server.kill()
        return await self._fresh.stop(worker, grace)

    async def close(self) -> None:
        """Ends all fork servers. On return none is left."""
        servers = [task.result() for task in self._servers.values() if task.done() and not task.exception()]
        self._servers.clear()
        await asyncio.gather(*(server.close() for server in servers), *self._tasks)

    def status(self) -> list[ForkServerStatus]:
        """The fork servers that run."""
        running = [task.result() for task in self._servers.values() if task.done() and not task.exception()]
        return [ForkServerStatus(s.environment, s.pid, s.workers, s.memory.bytes()) for s in running]

    def _not_now(self, spec: LaunchSpec) -> str:
        """Why no fork server is asked; empty where one is."""
        if not spec.fork_server:
            return spec.fresh_because
        until, reason = self._broken.get(ForkServerKey.of(spec), (0.0, ""))
        return reason if asyncio.get_running_loop().time() < until else ""

    async def _server(self, spec: LaunchSpec) -> ForkServer:
        """The fork server of the spec's environment, one for all who ask. OSError."""
        key = ForkServerKey.of(spec)
        if key not in self._servers:
            self._servers[key] = asyncio.create_task(self._start_server(key, spec))
        return await asyncio.shield(self._servers[key])

    async def _start_server(self, key: ForkServerKey, spec: LaunchSpec) -> ForkServer:
        try:
            server = await ForkServer.start(spec, log_path(key, spec))
        except OSError:
            del self._servers[key]
            raise
        _log.info("fork server %d of environment %s started", server.pid, spec.environment)
        server.ended.add_done_callback(lambda ended: self._ended(key, ended.result()))
        return server

    def _ended(self, key: ForkServerKey, how: str) -> None:
        """Unexpected where it was not forgotten first."""
        if self._servers.pop(key, None) is not None:
            reason = f"the environment's fork server died ({how})"
            _log.warning("%s; its workers go on", reason)
            self._broken[key] = asyncio.get_running_loop().time() + _BROKEN, reason

    async def _ask(
        self, server: ForkServer, worker: LocalWorker, spec: LaunchSpec, settings: dict[str, object]
    ) -> None:
        """Asks for a fork. What goes wrong from here on ends in a fresh process."""
        key = ForkServerKey.of(spec)
        word = Records.new_word()

        def answered() -> None:
            server.warm = True
            if shim.forked:
                self._fresh.record(worker, word)

        shim = ForkedShim(worker, answered, lambda reason: self._refused(worker, spec, reason))
        if not server.warm:
            worker.tell(Progress("imports", detail="in the environment's fork server"))
        worker.start = "forked"
        self._asked[worker] = shim, server
        server.joined()
        worker.ended.add_done_callback(lambda _: self._leave(worker, key))
        ends = await shim.connect()
        try:
            server.send(_wish(spec, word, settings), ends)
        except OSError as error:
            shim.cannot_be_asked(f"the fork server cannot be asked: {error}")
        finally:
            for end in ends:
                os.close(end)
        worker.say(spec.config.to_json())

    def _refused(self, worker: LocalWorker, spec: LaunchSpec, reason: str) -> None:
        self._leave(worker, ForkServerKey.of(spec))
        task = asyncio.get_running_loop().create_task(self._start_instead(worker, spec, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_instead(self, worker: LocalWorker, spec: LaunchSpec, reason: str) -> None:
        if worker.unwanted:
            worker.give_up(None)
            return
        try:
            await self._run_fresh(worker, spec, reason)
        except LoadFailed as error:
            worker.give_up(Failed(error.code, error.message, error.hint))
            return
        if worker.unwanted:  # asked for while the process started
            worker.say("stop 1")

    async def _run_fresh(self, worker: LocalWorker, spec: LaunchSpec, reason: str) -> None:
        if reason:
            _log.info("worker %s starts as a fresh process: %s", spec.config.name, reason)
            worker.start = f"fresh process: {reason}"
        await self._fresh.run(worker, spec)

    def _leave(self, worker: LocalWorker, key: ForkServerKey) -> None:
        """The worker is not, or no more, one of its fork server's."""
        asked = self._asked.pop(worker, None)
        if asked is not None:
            asked[1].left(self._idle, lambda: self._end_idle(key))

    def _end_idle(self, key: ForkServerKey) -> None:
        server = self._servers.pop(key).result()
        _log.info("fork server %d had no worker for %g s and is ended", server.pid, self._idle)
        server.kill()


def log_path(key: ForkServerKey, spec: LaunchSpec) -> Path:
    """Where a fork server writes: anew at each start of it."""
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:6]
    return spec.log.parent / f"fork-server-{spec.environment[:12]}-{digest}.log"


def _wish(spec: LaunchSpec, word: str, settings: dict[str, object]) -> dict[str, object]:
    """What a fork server is told, but for the descriptors."""
    config = spec.config
    return {
        "engine": config.engine,
        "model": config.model,
        "device": config.device,
        "adapters": any(model.adapter for model in config.models),
        "word": word,
        "settings": settings,
    }
