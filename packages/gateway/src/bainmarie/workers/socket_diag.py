"""Who listens on a port, asked of the Linux kernel directly: its answer has the listening sockets alone.

/proc/net/tcp, which tells the same, is a walk through the table of all connections: some 10 ms of processor time.
Source of the format: linux/sock_diag.h, linux/inet_diag.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

_AF_NETLINK, _SOCK_DIAG = 16, 4
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_REQUEST_DUMP = 0x001 | 0x300
_LISTEN = 1 << 10
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_WISH = struct.Struct("=BBBxI")  # family, protocol, extensions, states; 48 bytes that name a socket follow
_LIMIT = 1.0
"""Seconds for the kernel's answer; it takes a tenth of a millisecond."""


def listening(port: int) -> set[str]:
    """Inodes of the sockets that listen on that TCP port, on any address. OSError where this kernel does not tell."""
    return {inode for family in (socket.AF_INET, socket.AF_INET6) for inode in _asked(family, port)}


def _asked(family: int, port: int) -> Iterator[str]:
    wish = _WISH.pack(family, socket.IPPROTO_TCP, 0, _LISTEN) + struct.pack(">H", port) + bytes(46)
    with socket.socket(_AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as kernel:
        kernel.settimeout(_LIMIT)
        kernel.send(_HEADER.pack(_HEADER.size + len(wish), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + wish)
        while True:
            for kind, message in _messages(kernel.recv(1 << 16)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", message)[0], "the kernel does not tell of sockets")
                (found,) = struct.unpack_from(">H", message, 4)
                if found == port:
                    yield str(struct.unpack_from("=I", message, 68)[0])


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]
