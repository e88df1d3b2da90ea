"""Every wait of a worker's life, by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Seconds. A load that makes progress is cut by `load` alone."""

    sign_of_life: float = 180.0
    """From the start of the process to `Listening`."""
    stall: float = 300.0
    """Between two signs of progress while the weights load."""
    load: float = 3600.0
    """From the start of the process to `Ready`, whatever the progress."""
    adapter: float = 600.0
    """One adapter on a ready worker."""
    last_words: float = 2.0
    """From `Failed` to the process's end: then its log is complete."""
    drain: float = 60.0
    """How long an unload waits for requests in flight."""
    grace: float = 5.0
    """From TERM to KILL when a worker is stopped."""
    silence: float = 120.0
    """A ready worker that sends nothing for so long while it has requests is probed."""
    probe: float = 30.0
    """For the answer to a probe."""
    parallel: int = 256
    """Requests of one model that run at once; this and the next count requests, not seconds."""
    queue: int = 1024
    """Requests of one model that may wait."""
