"""The machine's cores, shared by the workers that compute: each takes its part of the threads.

With as many threads as cores, the threads of a worker that computes alone wait for each other by spinning for a moment,
which is faster by a quarter than sleeping; two workers that do so at once are each half as fast as one thread would be.
So each holds a lock on a file beside its socket while it computes, and looks now and then who else does. The kernel
takes the lock back from a dead worker, and its shim takes the file away. Nobody ever waits for such a lock: another
worker that looks holds it too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_SUFFIX = ".busy"


class Cores:
    """For the engine's thread alone: threads are set for the thread that asks."""

    def __init__(self, socket: str, threads: int, set_threads: Callable[[int], Any], every: float = 0.05) -> None:
        """`threads` are all that this worker may have. Without a `socket` or file locks (Windows) it always has them.

        It looks for others `every` so many seconds at most.
        """
        self._every = every
        self._all = self._now = threads
        self._set_threads = set_threads
        self._looked = 0.0
        self._lock: _Lock | None = None
        self._own = os.path.basename(os.path.splitext(socket)[0]) + _SUFFIX
        self._folder = os.path.dirname(socket)
        if socket and os.name != "nt" and threads > 1:
            self._lock = _Lock(os.path.join(self._folder, self._own))

    def take(self) -> None:
        """Before a pass."""
        if self._lock is None:
            return
        self._lock.hold()
        now = time.monotonic()
        if now - self._looked >= self._every:
            self._looked = now
            self._use(max(1, self._all // (1 + self._others())))

    def leave(self) -> None:
        """Nothing is left to compute."""
        if self._lock is not None:
            self._lock.release()
            self._looked = 0.0

    def _use(self, threads: int) -> None:
        if threads != self._now:
            self._now = threads
            self._set_threads(threads)

    def _others(self) -> int:
        """Workers that compute now, without this one."""
        names = (name for name in os.listdir(self._folder) if name.endswith(_SUFFIX) and name != self._own)
        return sum(is_held(os.path.join(self._folder, name)) for name in names)


class _Lock:
    """An exclusive lock on a file, which is made where it is missing."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held = False

    def hold(self) -> None:
        """While another worker looks, or where the file system has no locks, it stays free until the next pass."""
        if not self._held:
            import fcntl

            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._held = True

    def release(self) -> None:
        if self._held:
            import fcntl

            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._held = False


def is_held(path: str) -> bool:
    """Whether somebody holds the lock on that file."""
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it is gone
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # this file system has no locks
        return False
    finally:
        os.close(descriptor)
    return False
