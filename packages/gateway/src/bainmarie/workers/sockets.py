"""Where the workers' unix sockets lie."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bainmarie.errors import ConfigurationError

_LONGEST = 100
"""Bytes: the kernel's own limit is 104 on macOS, 108 on Linux."""


def socket_path(home: Path, key: str) -> str:
    """`HOME/run/KEY.sock`, its folder made; for a long home, in a folder of the same user under /tmp.

    It is the same for all who ask. Empty where there are no unix sockets (Windows). ConfigurationError where the folder
    under /tmp is not this user's alone.
    """
    return socket_in(home / "run", key)


def tidy(folder: Path) -> None:
    """Takes away what killed workers have left, and the folder under /tmp that stands for this one if it is empty then.

    Only for whoever has the home's lock, when all workers have ended and no socket is to be made any more.
    """
    if sys.platform == "win32":
        return
    elsewhere = _elsewhere(folder, os.getuid())
    for left in (*folder.glob("*.busy"), *elsewhere.glob("*.busy")):
        left.unlink(missing_ok=True)
    with suppress(OSError):  # it is not there, or not empty
        elsewhere.rmdir()


def socket_in(folder: Path, key: str) -> str:
    """The same for another folder."""
    if sys.platform == "win32":
        return ""
    path = folder / f"{key}.sock"
    if len(os.fsencode(path)) <= _LONGEST:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(path)
    user = os.getuid()
    return str(_private(_elsewhere(folder, user), user) / f"{key}.sock")


def _elsewhere(folder: Path, user: int) -> Path:
    """What stands for a folder whose path is too long. TMPDIR may differ between two programs and is asked last."""
    temporary = Path("/tmp")
    if not os.access(temporary, os.W_OK | os.X_OK):
        temporary = Path(tempfile.gettempdir())
    return temporary / f"bain-{user}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"


def _private(folder: Path, user: int) -> Path:
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077:
        return folder
    raise ConfigurationError(
        f"{folder}, where the sockets of a BAIN_HOME with a long path lie, is not a folder of this user's alone",
        hint="Remove it, or set BAIN_HOME to a shorter path.",
        code="socket_folder_taken",
    )
