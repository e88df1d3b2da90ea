"""The address that a gateway listens on."""

from __future__ import annotations

import errno
import os
import socket

import psutil

from bainmarie.errors import GatewayUnreachable

_HINT = "Choose another with gateway.port in bain.yaml or `bain up --port`; 0 takes a free one."


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, not yet listening. GatewayUnreachable says who has the address, or why it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise GatewayUnreachable(
            f"{host} is not an address of this machine: {error}", hint="See gateway.host."
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # Elsewhere it would let two programs share the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        shown = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise GatewayUnreachable(f"{shown} is in use{_by(port)}", hint=_HINT, code="port_in_use") from None
        raise GatewayUnreachable(f"cannot listen on {shown}: {error.strerror}", hint=_HINT) from None
    return listener


def reachable(listener: socket.socket) -> str:
    """The URL under which programs on this machine reach it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _by(port: int) -> str:
    """` by pid N (name)` where the system tells."""
    try:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
                return f" by pid {found.pid} ({psutil.Process(found.pid).name()})"
    except psutil.Error:
        return ""
    return ""
