"""The gateway of a Python program: the running one, or one that this process starts once and that ends with it."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from bainmarie.cli.client import Client
from bainmarie.cli.session import Session, open_session

T = TypeVar("T")


class OwnGateway:
    """One session for all threads, opened on first use and again when its gateway has gone.

    A gateway that was started here ends at the exit of this process, also when it is killed: its lifeline closes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session: Session | None = None

    def ask(self, question: Callable[[Client], T]) -> T:
        """`question`, asked of the gateway; asked of a new one if the known one does not answer any more."""
        known = self._session
        if known is not None:
            if known.client.healthy():
                return question(known.client)
            self._drop(known)
        return question(self._open().client)

    def close(self) -> None:
        """End what was opened."""
        if self._session is not None:
            self._drop(self._session)

    def after_fork(self) -> None:
        """In a forked child: the session is the parent's. A copy of the lifeline here would keep its gateway alive."""
        self._lock = threading.Lock()
        if self._session is not None and self._session.lifeline is not None:
            self._session.lifeline.forget()
        self._session = None

    def _open(self) -> Session:
        with self._lock:
            if self._session is None:
                self._session = open_session()
            return self._session

    def _drop(self, session: Session) -> None:
        with self._lock:
            if self._session is session:
                self._session = None
                session.close()


gateway = OwnGateway()
atexit.register(gateway.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gateway.after_fork)
