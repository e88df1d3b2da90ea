"""Event lines to the gateway: one writer for all threads, on a file descriptor that nothing else knows."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

from bainmarie_protocol import Event, Progress, encode_event

_DETAIL = 300
"""Characters of a progress detail; an event line has a limit."""
_INTERVAL = 0.05
"""Seconds between two progress events of one stage: a load of thousands of tensors must not flood the pipe."""


class Announcer:
    """Writes events to `fd`, each with one atomic write. Safe from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._stage = ""
        self._last = 0.0

    def send(self, event: Event) -> None:
        """Writes the event. Nobody reads any more: BrokenPipeError is not raised, the lifeline ends the process."""
        with self._lock:
            try:
                os.write(self._fd, encode_event(event))
            except BrokenPipeError:
                return

    def progress(self, step: Progress) -> None:
        """Sends a step of the load; the first and the last of a stage always, those between at most 20 a second."""
        now = time.monotonic()
        between = step.stage == self._stage and step.total > 0 and 0 < step.current < step.total
        if between and now - self._last < _INTERVAL:
            return
        self._stage, self._last = step.stage, now
        self.send(replace(step, detail=step.detail[:_DETAIL]))
