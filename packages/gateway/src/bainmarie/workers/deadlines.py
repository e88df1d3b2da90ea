"""How long a worker may be silent on its way up: a pure function."""

from __future__ import annotations

from dataclasses import dataclass

from bainmarie.workers.limits import Limits
from bainmarie.workers.states import State


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
