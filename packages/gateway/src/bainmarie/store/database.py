"""The database: one file, one connection, one thread that uses it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import StaticPool

from bainmarie.errors import ConfigurationError, OverCapacity
from bainmarie.store.migrations import migrate

T = TypeVar("T")

NAME = "bain.db"
"""The file's name in BAIN_HOME."""

_SETTINGS = (
    # Exclusive, and before WAL: a second connection to a WAL file can corrupt it in SQLite before 3.51.3.
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    # A commit survives the death of any process; the last ones before a power cut may be lost, the file stays sound.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 2000",
)


class Database:
    """One file. Nothing is opened before the first use; `close` at the end.

    `call` runs one function in one transaction: all it wrote is saved when it returns, nothing when it raises.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        self._connection: Connection | None = None
        """Used by that thread alone."""
        self._away = False

    async def call(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns. A cancelled caller leaves; its transaction is finished all the same.

        The first call makes the file or brings its tables up to date. ConfigurationError where it cannot be opened,
        for instance because another process holds it.
        """
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, work)
        return await asyncio.shield(running)

    async def release(self) -> None:
        """Wait for the work under way, then let go of the file: another process may have it. `call` fails meanwhile."""
        self._away = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)

    def take_back(self) -> None:
        """No other process has the file any more: the next `call` opens it."""
        self._away = False

    async def close(self) -> None:
        """Wait for the work under way, then let go of the file. It cannot be used again; closing twice is no error."""
        await asyncio.to_thread(self._shut)

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        if self._away:
            raise OverCapacity("another gateway has taken over the database", code="shutting_down")
        if self._connection is None:
            self._connection = _connect(self._path)
        with self._connection.begin():
            return work(self._connection)

    def _shut(self) -> None:
        try:
            self._thread.submit(self._disconnect).result()
        except RuntimeError:
            return  # Closed before.
        self._thread.shutdown()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection.engine.dispose()
            self._connection = None


def _connect(path: Path) -> Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", poolclass=StaticPool)

    @event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _: object) -> None:
        # SQLAlchemy begins transactions itself, so that statements which change tables are inside them too.
        connection.isolation_level = None
        for statement in _SETTINGS:
            connection.execute(statement)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        connection = engine.connect()
        with connection.begin():
            migrate(connection)
    except DatabaseError as error:
        engine.dispose()
        raise ConfigurationError(
            f"{path}: the database cannot be opened: {error.orig}",
            hint="Another gateway may hold it, its folder may be read-only, or it is no database: move it away.",
        ) from error
    except BaseException:
        engine.dispose()
        raise
    return connection
