"""One gateway for each home: the lock that says so, which a gateway can hand to its successor."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bainmarie.errors import GatewayUnreachable


@contextmanager
def only_one(home: Path) -> Iterator[int]:
    """Hold the home's lock, which goes with the process, however it ends. GatewayUnreachable where another has it.

    Gives its descriptor, or -1 where a lock cannot be handed on. The lock is free when all copies of it are closed.
    """
    path = home / "gateway.lock"
    if sys.platform == "win32":
        with _waiting_for_nobody(home, path):
            yield -1
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _taken(home) from None
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _waiting_for_nobody(home: Path, path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _taken(home) from None
    try:
        yield
    finally:
        lock.release()


def _taken(home: Path) -> GatewayUnreachable:
    return GatewayUnreachable(
        f"a gateway serves {home} already{_who(home)}",
        hint="See `bain status`; stop it with `bain down`, or put a new one in its place with `bain up --replace`.",
        code="gateway_running",
    )


def _who(home: Path) -> str:
    try:
        first = json.loads((home / "gateway.json").read_text())
        return f": pid {first['pid']} at {first['address']}"
    except (OSError, ValueError, KeyError):
        return ", which is about to start or to stop"
