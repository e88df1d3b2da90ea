"""Standard input: first the configuration, then the lifeline. Its end means that nobody needs this process any more."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable


def take_stdin() -> int:
    """Moves standard input to a private descriptor, so that no child process can inherit or read it."""
    fd = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return fd


def read_line(fd: int) -> str:
    """The first line, without what may follow it. EOFError if the input ends before the line does."""
    data = bytearray()
    while not data.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            raise EOFError("standard input ended before the configuration line did")
        data += byte
    return data.decode()


def hold(fd: int, clean_up: Callable[[], None]) -> None:
    """From now on the process ends when `fd` does: `clean_up`, then exit status 0, within a moment.

    A thread waits for the end. It needs the GIL, which C code may keep for many seconds while a model loads: see
    `end_without_gil`.
    """

    def wait() -> None:
        while os.read(fd, 4096):
            pass
        clean_up()
        os._exit(0)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def end_without_gil(fd: int, wanted: bool) -> None:
    """While wanted, the kernel ends the process by SIGIO when the writer of `fd` is gone, without any clean-up.

    Only for pipes, and only on Linux; elsewhere it does nothing. (A terminal's every key would be a signal.)
    """
    if not sys.platform.startswith("linux") or not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return
    import fcntl

    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC if wanted else flags & ~os.O_ASYNC)
