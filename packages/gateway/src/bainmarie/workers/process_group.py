"""Where a system has process groups and no subreaper (macOS): a guard ends the worker's group when the shim is killed.

    shim        holds a pipe to the guard; says `done` through it at its own end
     ├─ worker  leads the group
    guard       nobody's child; sees the shim's death by kqueue, and by the pipe's end where there is no kqueue

The group is what the guard has: a process that called setsid is missed, as by every stop. The standard library alone,
Python >= 3.9: the shim loads this file by its path.

Never run on macOS. With the pipe alone it is tested on Linux.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

assert sys.platform != "win32"

_DONE = b"done"


class Guard:
    """Of the process that has made it, which has one thread: from now on its death is that of the group."""

    def __init__(self, group: int) -> None:
        """OSError where no process can be made."""
        shim = os.getpid()
        read, self._pipe = os.pipe()
        child = os.fork()
        if child == 0:
            _be_guard(shim, group, read, self._pipe)
        os.close(read)
        os.waitpid(child, 0)

    def dismiss(self) -> None:
        """Nothing is left of the group: its number may soon be another's."""
        with contextlib.suppress(OSError):
            os.write(self._pipe, _DONE)
        os.close(self._pipe)


def _be_guard(shim: int, group: int, read: int, write: int) -> None:
    """Never returns. The process that was forked ends at once, so that the guard is nobody's child."""
    try:
        if os.fork() == 0:
            os.setsid()
            os.close(write)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for stream in (0, 1, 2):
                os.close(stream)
            if _outlived(shim, read):
                os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)


def _outlived(shim: int, pipe: int) -> bool:
    """Returns when the shim is gone or has said that it is done: True where it has not said so."""
    if sys.platform == "darwin":
        queue = select.kqueue()
        readable = select.kevent(pipe, select.KQ_FILTER_READ, select.KQ_EV_ADD)
        gone = select.kevent(shim, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT)
        with contextlib.suppress(ProcessLookupError):  # it is dead already
            queue.control([readable, gone], 1, None)
        os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(pipe, len(_DONE)) != _DONE
    return True
