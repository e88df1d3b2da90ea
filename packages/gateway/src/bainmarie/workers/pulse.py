"""Whether a ready worker that is busy still works: found by what it sends, by an answer, or by the work it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psutil

from bainmarie.errors import BainError, LoadFailed
from bainmarie.workers.client import WorkerClient
from bainmarie.workers.limits import Limits
from bainmarie_protocol import paths

_WORKS = 0.05
"""Of one core: a process tree that computes less than this, averaged over a probe, does nothing."""
_BUSY = 30
"""Times `silence`: even one that computes must have sent something by then."""
_LOOKS = 20
"""Looks at the clock in one `silence`."""
_HELD_UP = 0.5
"""Seconds by which a probe's end is late where this process did not run, nor perhaps the worker: nothing is known."""

Probe = tuple[str, dict[str, object]]
"""Path and body of a request for one token."""


class Pulse:
    """One ready worker. Nothing is asked of a worker that is idle, or that has sent something just now."""

    def __init__(
        self,
        name: str,
        client: WorkerClient,
        another: Callable[[], WorkerClient],
        probe: Probe,
        root: int,
        limits: Limits,
    ) -> None:
        self._name = name
        self._client = client
        self._another = another
        self._probe = probe
        self._root = root
        self._limits = limits

    async def lost(self) -> BainError:
        """Returns when the worker is wedged, with what was seen."""
        limits = self._limits
        while True:
            await asyncio.sleep(min(1.0, limits.silence / _LOOKS))
            silent = self._client.silent()
            if silent < limits.silence:
                continue
            before = await asyncio.to_thread(tree_seconds, self._root)
            asked = time.monotonic()
            if await self._answers():
                self._client.hear()
                continue
            if time.monotonic() - asked > limits.probe + _HELD_UP:
                continue
            worked = await asyncio.to_thread(tree_seconds, self._root) - before
            if self._client.silent() < limits.silence:
                continue
            if worked < _WORKS * limits.probe:
                return self._wedged(f"it sent nothing for {silent:.0f} s, answered no probe and computed nothing")
            if silent > _BUSY * limits.silence:
                return self._wedged(f"it computed for {silent:.0f} s and sent nothing")

    def _wedged(self, seen: str) -> LoadFailed:
        return LoadFailed(
            f"the worker of {self._name!r} hung: {seen}",
            hint="It was ended; the next request starts it again.",
            code="wedged",
        )

    async def _answers(self) -> bool:
        """Whether a request for one token is answered in time; an honest refusal is an answer too."""
        path, body = self._probe
        client = self._another()
        try:
            async with asyncio.timeout(self._limits.probe):
                await client.json("POST", path, body)
        except TimeoutError:
            return False
        except BainError as error:
            return error.code != "worker_died"
        finally:
            await client.close()
        return True


def probe(name: str, *, foreign: bool) -> Probe:
    """For our own worker the least; other servers are most likely to speak of chats."""
    if not foreign:
        return paths.COMPLETIONS, {"model": name, "prompt": ".", "max_tokens": 1}
    message = {"role": "user", "content": "."}
    return paths.CHAT, {"model": name, "messages": [message], "max_tokens": 1}


def tree_seconds(root: int) -> float:
    """Processor seconds that the processes below `root` have used."""
    total = 0.0
    try:
        tree = psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return total
    for process in tree:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
