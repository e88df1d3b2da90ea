"""Where the workers' unix sockets lie."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

_LONGEST = 100
"""Bytes: the kernel's own limit is 104 on macOS, 108 on Linux."""


def socket_path(home: Path, key: str) -> str:
    """`HOME/run/KEY.sock`, its folder made; for a long home, a folder of the same user under the temporary directory.

    Empty where there are no unix sockets (Windows).
    """
    return socket_in(home / "run", key)


def socket_in(folder: Path, key: str) -> str:
    """The same for another folder."""
    if sys.platform == "win32":
        return ""
    path = folder / f"{key}.sock"
    if len(os.fsencode(path)) <= _LONGEST:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(path)
    user, digest = os.getuid(), hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    return str(_private(Path(tempfile.gettempdir()) / f"bain-{user}-{digest}", user) / f"{key}.sock")


def _private(folder: Path, user: int) -> Path:
    """That folder if it is that user's alone; a new one where somebody else was there first."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="bain-"))
