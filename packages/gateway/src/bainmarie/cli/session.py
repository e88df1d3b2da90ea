"""Find the gateway of this home, or start one that ends with the caller."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bainmarie.cli.client import UP_HINT, Client
from bainmarie.cli.place import configuration, running
from bainmarie.cli.spawn import Lifeline, start_with_lifeline
from bainmarie.errors import GatewayUnreachable

HOME_TAKEN = "gateway_running"
STARTS = 5
"""Tries to start a gateway on a home that another one holds."""
LOOKS, LOOK_SECONDS = 20, 0.25
"""Between two of them: how often to look whether that other one answers."""


@dataclass(frozen=True)
class Session:
    """A gateway to talk with. `lifeline` is set where it was started for this caller."""

    client: Client
    lifeline: Lifeline | None = None

    @property
    def started(self) -> bool:
        return self.lifeline is not None

    def close(self) -> None:
        """Close the connections, and end the gateway if it was started for this caller."""
        self.client.close()
        if self.lifeline is not None:
            self.lifeline.close()


def api_key() -> str | None:
    """BAIN_API_KEY, else the first key of the configuration."""
    if key := os.environ.get("BAIN_API_KEY"):
        return key
    keys = configuration().gateway.api_keys
    return str(keys[0]) if keys else None


def web_address(address: str) -> str:
    """`address` as a URL."""
    return address if "://" in address else f"http://{address}"


def find() -> Client | None:
    """A client to BAIN_URL if it is set (unasked whether it answers), else to the healthy gateway of this home."""
    if url := os.environ.get("BAIN_URL"):
        return Client(web_address(url), api_key)
    found = running()
    if found is None:
        return None
    client = Client(web_address(found.address), api_key)
    if client.healthy():
        return client
    client.close()
    return None


def open_session(*, start: bool = True) -> Session:
    """The running gateway, else one started for this caller. Close the result.

    GatewayUnreachable where there is none and `start` is false; what the start raised where it failed.
    """
    client = find()
    if client is not None:
        return Session(client)
    if not start:
        raise GatewayUnreachable("no gateway is running", hint=UP_HINT)
    for _ in range(STARTS):
        try:
            lifeline = start_with_lifeline()
        except GatewayUnreachable as error:
            if error.code != HOME_TAKEN:
                raise
            taken = error
        else:
            return Session(Client(web_address(lifeline.address), api_key), lifeline)
        client = _wait_for_other()
        if client is not None:
            return Session(client)
    raise taken


def _wait_for_other() -> Client | None:
    """Another gateway holds the home and cannot be asked: it is about to start, or to stop. Give it time."""
    for _ in range(LOOKS):
        time.sleep(LOOK_SECONDS)
        client = find()
        if client is not None:
            return client
    return None


@contextmanager
def gateway_session(*, start: bool = True) -> Iterator[Session]:
    """`open_session` that closes what it opened."""
    session = open_session(start=start)
    try:
        yield session
    finally:
        session.close()


def need_client() -> Client:
    """The running gateway's client, for commands that make no sense without one. Close it."""
    return open_session(start=False).client
