"""Runs one shell command and leaves no process of it behind. A script of its own: `python -I -S shell_tree.py`.

In:  argv[1] the time limit in seconds, argv[2] the most bytes of output to keep, argv[3] the command.
     stdin stays open and silent as a lifeline: its end means "stop now", also when whoever started us was killed.
     Environment and working directory are the command's.
Out: one JSON object on stdout when no process of the command is left:
     {"end": "exit" | "limit" | "stopped", "code": int, "output": base64, "left_out": bytes cut from the middle}.
     `code` is the exit status, minus the signal where a signal ended the command.

The command's shell is the leader of a new session. On Linux we are the subreaper of everything it starts, so a process
that leaves the session and outlives its parent becomes our child and is found; elsewhere the session and the tree as
`ps` shows it are all there is to find. What the command left in the background is killed as well when it returns.
Standard library only, no thread.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable

assert sys.platform != "win32"

PR_SET_CHILD_SUBREAPER = 36
DRAIN = 0.2
"""Seconds for the last output of a command that has ended, while its background processes still hold the pipe."""


_BEYOND: set[int] = set()
"""Processes that we may not kill."""


class Kept:
    """The beginning and the end of an output, each at most half of `room` bytes."""

    def __init__(self, room: int) -> None:
        self._half = room // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.left_out = 0

    def add(self, data: bytes) -> None:
        free = self._half - len(self._head)
        self._head += data[:free]
        self._tail += data[max(free, 0) :]
        surplus = len(self._tail) - self._half
        if surplus > 0:
            del self._tail[:surplus]
            self.left_out += surplus

    @property
    def head(self) -> bytes:
        return bytes(self._head)

    @property
    def tail(self) -> bytes:
        return bytes(self._tail)


def main() -> None:
    limit, room, command = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    _adopt_descendants()
    # A signal to us is a wish to stop, which the lifeline says better; die only when the tree is gone.
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A function, not SIG_IGN: the command would inherit that.
        signal.signal(name, lambda *_: None)
    reading, writing = os.pipe()
    shell = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
        start_new_session=True,
        restore_signals=True,
    )
    os.close(writing)
    kept = Kept(room)
    end = _watch(shell, reading, kept, limit)
    _kill_all(shell)
    _drain(reading, kept)
    answer = {
        "end": end,
        "code": shell.returncode if shell.returncode is not None else -signal.SIGKILL,
        "head": base64.b64encode(kept.head).decode(),
        "tail": base64.b64encode(kept.tail).decode(),
        "left_out": kept.left_out,
    }
    sys.stdout.write(json.dumps(answer))


def _adopt_descendants() -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _watch(shell: subprocess.Popen[bytes], reading: int, kept: Kept, limit: float) -> str:
    """Collect output until the shell ends, the time is over, or the lifeline does."""
    deadline = time.monotonic() + limit
    wake_read, wake_write = os.pipe()
    for descriptor in (wake_read, wake_write, reading):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(reading, selectors.EVENT_READ)
        # Poll first: the shell may have ended before its signal was listened for.
        while shell.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return "limit"
            for key, _ in selector.select(left):
                if key.fd == 0 and not os.read(0, 4096):
                    return "stopped"
                if key.fd == wake_read:
                    os.read(wake_read, 4096)
                if key.fd == reading and not _take(reading, kept):
                    selector.unregister(reading)
    return "exit"


def _take(reading: int, kept: Kept) -> bool:
    """Read once; False at the end of the output."""
    try:
        data = os.read(reading, 65536)
    except BlockingIOError:
        return True
    kept.add(data)
    return bool(data)


def _drain(reading: int, kept: Kept) -> None:
    """What was written before the end: all writers are gone, so this meets the end of the pipe."""
    deadline = time.monotonic() + DRAIN
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(deadline - time.monotonic()) and not _take(reading, kept):
                return


def _kill_all(shell: subprocess.Popen[bytes]) -> None:
    """Kill until nothing is left: a process can fork between our look and our signal, so look again each time."""
    while True:
        found = _descendants() | ({shell.pid} if shell.poll() is None else set())
        if sys.platform != "linux":
            # By group too: without a subreaper an orphan is no descendant of ours any more.
            _kill(os.killpg, shell.pid)
        for pid in found:
            _kill(os.kill, pid)
        shell.poll()
        _reap(shell.pid)
        if not found - _BEYOND:
            return
        time.sleep(0.002)


def _kill(how: Callable[[int, int], None], target: int) -> None:
    try:
        how(target, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:
        # It has become another user's (sudo): we cannot end it, and waiting for its end would never end either.
        _BEYOND.add(target)


def _reap(shell: int) -> None:
    """Collect adopted processes that have ended; the shell's own status belongs to its Popen."""
    for pid in _children_of(_table()).get(os.getpid(), []):
        if pid != shell:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _descendants() -> set[int]:
    """Every living process below us; a zombie that only waits to be collected counts until it is."""
    children = _children_of(_table())
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        for pid in children.get(todo.pop(), []):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found


def _children_of(table: dict[int, int]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for pid, parent in table.items():
        children.setdefault(parent, []).append(pid)
    return children


def _table() -> dict[int, int]:
    """Process ids to their parents'."""
    if sys.platform == "linux":
        return dict(_from_proc())
    listing = subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True)
    text = listing.communicate()[0]
    rows = [line.split() for line in text.splitlines()]
    return {int(row[0]): int(row[1]) for row in rows if len(row) == 2 and int(row[0]) != listing.pid}


def _from_proc() -> list[tuple[int, int]]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The name in parentheses may hold anything, a parenthesis too; state and parent stand behind it.
                    found.append((int(name), int(file.read().rpartition(b")")[2].split()[1])))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


if __name__ == "__main__":
    main()
