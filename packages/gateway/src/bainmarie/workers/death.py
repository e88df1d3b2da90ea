"""Why a worker died, as far as its exit and its last words tell."""

from __future__ import annotations

import signal

from bainmarie.errors import LoadFailed
from bainmarie.workers import oom
from bainmarie.workers.states import State
from bainmarie_protocol import Exited

_ABORT, _KILL = 6, 9
"""SIGABRT and SIGKILL, which not every system has by name."""


def death(event: Exited, name: str, state: State, log_tail: str, oom_kills: int | None) -> LoadFailed:
    """`oom_kills` is the kernel's count when the worker's process began."""
    doing = "it was ready" if state is State.READY else state.value
    by_itself = event.signal in (None, _ABORT)  # its last line tells why; a signal from outside comes amid any line
    said = [line.strip() for line in log_tail.splitlines() if line.strip()][-1:] if by_itself else []
    message = f"the worker of {name!r} died while {doing} ({_how(event)})"
    code, hint = "worker_died", ""
    if event.signal == _KILL:
        now = oom.kills()
        hint = oom.told(oom_kills, now)
        code = "out_of_memory" if (now or 0) > (oom_kills or 0) else code
    return LoadFailed(": ".join([message, *said]), code=code, hint=hint, log_tail=log_tail)


def _how(event: Exited) -> str:
    if event.signal is not None:
        known = event.signal in set(signal.Signals)
        return signal.Signals(event.signal).name if known else f"signal {event.signal}"
    return "its process is gone" if event.code is None else f"exit code {event.code}"
