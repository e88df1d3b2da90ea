"""Where the data of this installation lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def bain_home(environ: Mapping[str, str]) -> Path:
    """BAIN_HOME, else the platform's data directory for bainmarie. Absolute; it need not exist."""
    from platformdirs import user_data_dir

    given = environ.get("BAIN_HOME")
    return Path(given).expanduser().absolute() if given else Path(user_data_dir("bainmarie", appauthor=False))
