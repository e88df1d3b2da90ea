"""The way from any older database to the tables of today: one step for each version, in order, never changed later."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, text

from bainmarie.errors import ConfigurationError
from bainmarie.store.tables import metadata


def _first(connection: Connection) -> None:
    metadata.create_all(connection)


STEPS: tuple[Callable[[Connection], None], ...] = (_first,)
"""Step n leads from version n to n + 1. When a second one comes, the first gets the statements of its day."""


def migrate(connection: Connection) -> None:
    """Bring the database to the newest version within the caller's transaction.

    ConfigurationError where a newer bainmarie wrote it.
    """
    version = int(connection.execute(text("PRAGMA user_version")).scalar_one())
    if version > len(STEPS):
        raise ConfigurationError(
            f"the database has version {version}, this bainmarie knows up to {len(STEPS)}",
            hint="Update bainmarie, or give it another BAIN_HOME.",
        )
    for step in STEPS[version:]:
        step(connection)
    connection.execute(text(f"PRAGMA user_version = {len(STEPS)}"))
