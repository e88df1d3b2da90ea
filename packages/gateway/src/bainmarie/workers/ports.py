"""Ports for servers that cannot be handed a socket: one that is free now, and who listens on it later."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from bainmarie.errors import LoadFailed
from bainmarie.workers import socket_diag

_FIRST, _LAST = 20000, 32767
"""Below what systems hand out by themselves (Linux: from 32768, others: 49152): no connection takes one by chance."""
_TRIES = 200
_LISTEN = "0A"


def free_port() -> int:
    """A loopback port that nobody has at this moment. Whoever takes it before the server does is found later."""
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)
        if is_free(port):
            return port
    raise LoadFailed(f"no free port among {_FIRST}-{_LAST} was found in {_TRIES} tries", code="no_port")


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def listeners(port: int, tree: Iterable[int]) -> tuple[int, int]:
    """(listening sockets on `port` that belong to a process of `tree`, those that do not). Blocking.

    From the system itself: Linux tells all listeners and the descriptors of each process; elsewhere psutil, which sees
    the tree's alone.
    """
    if sys.platform != "linux":
        return sum(_psutil_listens(pid, port) for pid in tree), 0
    inodes = _inodes(port)
    ours = inodes & {inode for pid in tree for inode in _sockets(pid)} if inodes else set()
    return len(ours), len(inodes - ours)


def _inodes(port: int) -> set[str]:
    try:
        return socket_diag.listening(port)
    except OSError:  # a kernel without it, or a sandbox in its place
        return in_table(port)


def in_table(port: int) -> set[str]:
    """Inodes of the sockets that listen on that port, from a table that every Linux has."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError), Path(f"/proc/net/{table}").open() as lines:  # one at a time: there may be very many
            next(lines, "")
            for line in lines:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _sockets(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open; empty where it is gone or not ours."""
    found = set()
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _psutil_listens(pid: int, port: int) -> bool:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)
