"""The end of a log file, and what is written to it from then on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 64 * 1024
_LOOK_SECONDS = 0.5
"""Between two looks at a file that is followed."""


async def tail(path: Path, lines: int) -> str:
    """The last `lines` lines; empty where the file does not exist."""
    content, _ = await asyncio.to_thread(_end_of, path, lines)
    return content.decode(errors="replace")


async def follow(path: Path, lines: int) -> AsyncGenerator[bytes, None]:
    """As `tail`, then everything that is appended, through rotation. Never ends."""
    content, position = await asyncio.to_thread(_end_of, path, lines)
    if content:
        yield content
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        content, position = await asyncio.to_thread(_news, path, position)
        if content:
            yield content


@dataclass(frozen=True)
class _Position:
    """How far which file was read."""

    file: int
    offset: int


def _end_of(path: Path, lines: int) -> tuple[bytes, _Position]:
    try:
        with path.open("rb") as file:
            position = _Position(os.fstat(file.fileno()).st_ino, file.seek(0, os.SEEK_END))
            start, content = position.offset, b""
            while start > 0 and content.count(b"\n") <= lines:
                size = min(_BLOCK, start)
                start -= size
                file.seek(start)
                content = file.read(size) + content
    except FileNotFoundError:
        return b"", _Position(0, 0)
    kept = content.splitlines(keepends=True)[-lines:] if lines else []
    return b"".join(kept), position


def _news(path: Path, position: _Position) -> tuple[bytes, _Position]:
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            same = facts.st_ino == position.file and facts.st_size >= position.offset
            file.seek(position.offset if same else 0)
            content = file.read()
            return content, _Position(facts.st_ino, file.tell())
    except FileNotFoundError:
        return b"", position
