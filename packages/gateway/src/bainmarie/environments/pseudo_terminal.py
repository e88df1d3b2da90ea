"""A pseudo-terminal as a child's stderr: programs show live progress only where they believe in a terminal."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_ROWS, _COLUMNS = 250, 250
"""Large, so that no progress bar is hidden for lack of rows and texts are seldom wrapped."""


@dataclass
class PseudoTerminal:
    """`slave` is for the child; the parent closes its own copy with `child_has_it` and reads what the child writes."""

    slave: int
    reader: asyncio.StreamReader

    def child_has_it(self) -> None:
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1

    async def read(self) -> bytes:
        """Some bytes; b"" when the last process that has the slave is gone."""
        try:
            return await self.reader.read(1 << 16)
        except OSError as error:
            if error.errno == errno.EIO:  # Linux's word for the end
                return b""
            raise


@asynccontextmanager
async def pseudo_terminal() -> AsyncIterator[PseudoTerminal]:
    """Open one (POSIX only); closed on leaving."""
    if sys.platform == "win32":
        raise NotImplementedError("there are no pseudo-terminals on Windows")
    import fcntl
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(master, "rb", buffering=0)
    )
    terminal = PseudoTerminal(slave, reader)
    try:
        yield terminal
    finally:
        terminal.child_has_it()
        transport.close()
