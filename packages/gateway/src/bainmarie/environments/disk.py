"""What directories take on the disk, hard links counted once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Disk:
    """Bytes of blocks that are in use, not of lengths."""

    size: int
    """All files, each once."""
    own: int
    """Of them, those that have no other name outside: what a removal would free."""

    @property
    def shared(self) -> int:
        """What uv's cache or other environments hold too."""
        return self.size - self.own


def disk(directories: Iterable[Path]) -> Disk:
    """Of all these directories together. What vanishes meanwhile is not counted."""
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for directory in directories:
        for status in _walk(directory):
            key = (status.st_dev, status.st_ino)
            seen = found[key][0] if key in found else 0
            found[key] = (seen + 1, status.st_nlink, _bytes(status))
    size = sum(size for _, _, size in found.values())
    own = sum(size for seen, names, size in found.values() if seen >= names)
    return Disk(size, own)


def _walk(directory: Path) -> Iterator[os.stat_result]:
    """Of every file and link below; a directory's own blocks are too few to matter."""
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                yield os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue


def _bytes(status: os.stat_result) -> int:
    blocks = getattr(status, "st_blocks", None)  # Windows has none
    return status.st_size if blocks is None else blocks * 512


def written(size: int) -> str:
    """A size for people."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
