"""How long a worker may be silent on its way up: a pure function, and a wait that is fair to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bainmarie.workers.limits import Limits
from bainmarie.workers.states import State

_BREATH = 0.1
"""Seconds in which what has come meanwhile is read."""


@dataclass(frozen=True)
class Deadline:
    """Of the next event; the error is for the worker that lets it pass."""

    at: float | None
    """Loop time; None is never."""
    code: str = ""
    message: str = ""


def deadline(state: State, name: str, limits: Limits, started: float, heard: float) -> Deadline:
    """The limit that is in force now: `started` is when its process was, `heard` when it last gave a sign."""
    if state is State.STARTING:
        message = f"the worker of {name!r} gave no sign of life for {limits.sign_of_life:g} s"
        return Deadline(started + limits.sign_of_life, "no_sign_of_life", message)
    if state is State.READY:
        return Deadline(None)
    stalled, too_long = heard + limits.stall, started + limits.load
    if stalled < too_long:
        return Deadline(stalled, "stalled", f"the load of {name!r} made no progress for {limits.stall:g} s")
    return Deadline(too_long, "load_too_long", f"the load of {name!r} took more than {limits.load:g} s")


@asynccontextmanager
async def until(at: float | None) -> AsyncIterator[None]:
    """As `asyncio.timeout_at`, but what came in time counts where this process was held up (Ctrl-Z, a busy machine).

    Its timers and its mail then wait for it together, and the timers would be heard first. A time that is over when the
    block begins ends it at its first wait.
    """
    loop = asyncio.get_running_loop()
    breath = _BREATH if at is not None and at > loop.time() else 0.0
    async with asyncio.timeout(None) as limit:
        handle = None if at is None else loop.call_at(at, lambda: limit.reschedule(loop.time() + breath))
        try:
            yield
        finally:
            if handle is not None:
                handle.cancel()
