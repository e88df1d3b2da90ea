"""Locks between processes that do not block the event loop and end with their holder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_POLL = 0.05
"""Seconds between two tries; the other side builds for seconds to minutes."""


def build_lock(environment: Path) -> Path:
    """The lock file of an environment's directory: held by who builds it, removes it, or takes its files over."""
    return environment.parent / "locks" / f"{environment.name}.build.lock"


@asynccontextmanager
async def hold(path: Path, waiting: Callable[[], None]) -> AsyncIterator[tuple[int, ...]]:
    """Hold the lock file; `waiting` is called once if another holds it.

    Gives the lock's file descriptors (none on Windows): a child that inherits them holds the lock too until it ends,
    so nobody gets the lock while children of a killed holder still write. The file stays when the lock is released.
    """
    descriptors: list[int] = []
    lock = FileLock(path, thread_local=False, on_acquired=descriptors.append)
    told = False
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            if not told:
                waiting()
                told = True
            await asyncio.sleep(_POLL)
    try:
        yield tuple(descriptors)
    finally:
        lock.release()
