"""What worker and shim tell the gateway while they live: one JSON object on one line of their shared stdout.

`Listening`, `Progress`, `Ready`, `Failed` come from the worker, `Spawned`, `Exited` from the shim.
`Exited` is the last line and comes when no process of the worker's tree is left.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Union

MAX_LINE = 4096
"""Bytes of one event line. POSIX writes of up to PIPE_BUF bytes (4096 on Linux) to a pipe are atomic."""


@dataclass(frozen=True)
class Spawned:
    """The shim has started the worker's process."""

    pid: int


@dataclass(frozen=True)
class Listening:
    """The worker's socket accepts connections; the model is not loaded yet."""

    pid: int
    port: int = 0
    """Loopback port where no unix socket is used, else 0."""


@dataclass(frozen=True)
class Progress:
    """A step of the load. Any progress event resets the gateway's stall clock."""

    stage: str
    """imports | config | weights | pack | adapter | warmup"""
    current: int = 0
    total: int = 0
    """In `unit`; 0 means unknown."""
    unit: str = ""
    """`bytes`, `layers` or empty."""
    detail: str = ""


@dataclass(frozen=True)
class Ready:
    """The model answers requests. `info` is shown in the status: versions, interpreter, device, dtype, context."""

    info: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The worker cannot serve; it exits after this."""

    code: str
    """model_not_found, model_incomplete, adapter_mismatch, architecture_unknown, package_missing, load_failed, ..."""
    message: str
    hint: str = ""
    """What to do about it: a command or a configuration line."""


@dataclass(frozen=True)
class Exited:
    """Nothing of the worker's process tree is left. `code` is the exit status, `signal` the signal that ended it."""

    code: int | None = None
    signal: int | None = None


Event = Union[Spawned, Listening, Progress, Ready, Failed, Exited]
_KINDS: dict[str, type] = {
    "spawned": Spawned,
    "listening": Listening,
    "progress": Progress,
    "ready": Ready,
    "failed": Failed,
    "exited": Exited,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode_event(event: Event) -> bytes:
    """One line with its newline, at most MAX_LINE bytes; texts of a `Failed` too long for it are cut in the middle."""
    line = _line(event)
    room = MAX_LINE
    while len(line) > MAX_LINE and isinstance(event, Failed):
        room //= 2
        line = _line(replace(event, message=_shorten(event.message, room), hint=_shorten(event.hint, room // 2)))
    if len(line) > MAX_LINE:
        raise ValueError(f"event of {len(line)} bytes, at most {MAX_LINE} fit in one line: {line[:80]!r}...")
    return line


def decode_event(line: bytes) -> Event:
    """The inverse of `encode_event`. ValueError on anything else."""
    data = json.loads(line)
    if not isinstance(data, dict) or data.get("event") not in _KINDS:
        raise ValueError(f"not an event: {line[:80]!r}")
    kind = _KINDS[data.pop("event")]
    try:
        event: Event = kind(**data)
    except TypeError as error:
        raise ValueError(f"not an event: {error}") from error
    return event


def _line(event: Event) -> bytes:
    return json.dumps({"event": _NAMES[type(event)], **asdict(event)}, ensure_ascii=False).encode() + b"\n"


def _shorten(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room // 2]} ... {text[-room // 2 :]}"
