"""Who listens on a port: the kernel's answer and its table say the same, and name the very sockets."""

from __future__ import annotations

import os
import socket
import sys

import psutil
import pytest

from bainmarie.workers import socket_diag
from bainmarie.workers.ports import free_port, in_table, is_free, listeners

linux = pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")


def inode(one: socket.socket) -> str:
    return os.readlink(f"/proc/self/fd/{one.fileno()}")[len("socket:[") : -1]


@linux
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listener_is_found_and_nothing_else(family: socket.AddressFamily, address: str) -> None:
    try:
        server = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {address}")
    with server:
        port = server.getsockname()[1]
        client = socket.create_connection((address, port))
        accepted, _ = server.accept()  # on the same port, but it does not listen
        with client, accepted:
            assert socket_diag.listening(port) == in_table(port) == {inode(server)}
            assert socket_diag.listening(client.getsockname()[1]) == set()
    assert socket_diag.listening(port) == in_table(port) == set()


@linux
def test_many_listeners_of_one_port_are_all_found() -> None:
    """More than fit into one message of the kernel."""
    first = socket.socket()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first.bind(("127.0.0.1", 0))
    many = [first]
    for _ in range(400):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(first.getsockname())
        many.append(one)
    for one in many:
        one.listen()
    try:
        assert socket_diag.listening(first.getsockname()[1]) == {inode(one) for one in many}
    finally:
        for one in many:
            one.close()


def test_ours_and_those_of_strangers_are_told_apart() -> None:
    port = free_port()
    assert is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        assert listeners(port, [os.getpid()]) == (1, 0)
        if sys.platform == "linux":
            assert listeners(port, [psutil.Process().ppid()]) == (0, 1)
