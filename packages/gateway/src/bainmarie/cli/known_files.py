"""The configuration files that this home has served: `env gc` must not take away what another project needs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from bainmarie.cli.place import home
from bainmarie.settings import Settings, config_path, load_settings

_NAME = "configurations"


def remember() -> None:
    """Note the configuration file of this process in the home. Where that fails, nothing is built either."""
    path = config_path(None, os.environ, home())
    with suppress(OSError):
        if path is None or path in _noted():
            return
        home().mkdir(parents=True, exist_ok=True)
        with (home() / _NAME).open("a", encoding="utf-8") as notes:
            notes.write(f"{path}\n")


def others() -> list[tuple[Path, Settings]]:
    """The noted files but this process's own, as far as they still exist.

    ConfigurationError for a broken one, OSError where the notes cannot be read: what is not known must not be swept.
    """
    own = config_path(None, os.environ, home())
    return [(path, load_settings(path, os.environ)) for path in _noted() if path != own and path.is_file()]


def _noted() -> list[Path]:
    try:
        lines = (home() / _NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [Path(line) for line in dict.fromkeys(lines) if line]
