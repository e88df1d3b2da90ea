"""Removing environments that nobody wants any more: mark and sweep.

Marked is what the models of the known configurations want. Swept is the rest, but never what a process runs in, what
was asked for moments ago (its worker may be about to start), or what is being built. The same holds for the worker's
own packages that were unpacked for interpreters used as they are: this bainmarie's are marked.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from bainmarie.environments.disk import disk
from bainmarie.environments.environment import MARKER, read_marker
from bainmarie.environments.file_locks import build_lock

_JUST_ASKED = 600.0
"""Seconds: far longer than from an ask to the start of its worker."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of one directory."""

    path: Path
    name: str
    """The environment's; empty for a directory that was never finished."""
    kept: str
    """Why it stays; empty for one that goes."""
    freed: int
    """Bytes that its removal gives back."""


def sweep(root: Path, marked: Collection[str], *, dry_run: bool = False) -> Iterator[Verdict]:
    """A verdict for every directory in `root`; those that go are gone when theirs is given, but for `dry_run`."""
    for path in sorted(root.glob("*")):
        if path.is_dir() and path.name != "locks":
            yield _judge(root, path, marked, dry_run)


def sweep_unpacked(root: Path, marked: str, *, dry_run: bool = False) -> Iterator[Verdict]:
    """As `sweep`, for the folders of unpacked workers; none begun lately is removed either, for it may become one."""
    for path in sorted(root.glob("*")):
        kept = ""
        if path.name == marked:
            kept = "this bainmarie's worker"
        elif pid := _imports_from(path):
            kept = f"process {pid} runs it"
        elif time.time() - path.stat().st_mtime < _JUST_ASKED:
            kept = "it was asked for minutes ago"
        freed = 0 if kept else disk([path]).own
        if not kept and not dry_run:
            shutil.rmtree(path)
        yield Verdict(path, "worker", kept, freed)


def note_use(root: Path, digest: str) -> None:
    """Remember that this environment was asked for now. Where that cannot be written, nothing can be removed either."""
    with suppress(OSError):
        _used_file(root, digest).touch()


def last_use(root: Path, digest: str) -> float:
    """Seconds since the epoch; 0 where it was never asked for."""
    try:
        return _used_file(root, digest).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _judge(root: Path, path: Path, marked: Collection[str], dry_run: bool) -> Verdict:
    environment = read_marker(path)
    name = environment.name if environment else ""
    if kept := _keeps(root, path, marked):
        return Verdict(path, name, kept, 0)
    try:
        lock = FileLock(build_lock(path)).acquire(blocking=False)
    except Timeout:
        return Verdict(path, name, "it is being built", 0)
    with lock:
        freed = disk([path]).own
        if not dry_run:
            (path / MARKER).unlink(missing_ok=True)  # first: what is half-removed must not look finished
            shutil.rmtree(path)
            _used_file(root, path.name).unlink(missing_ok=True)
    return Verdict(path, name, "", freed)


def _keeps(root: Path, path: Path, marked: Collection[str]) -> str:
    if path.name in marked:
        return "a model wants it"
    if pid := _runs_in(path):
        return f"process {pid} runs in it"
    if time.time() - last_use(root, path.name) < _JUST_ASKED:
        return "it was asked for minutes ago"
    return ""


def _runs_in(path: Path) -> int:
    """A process that was started with a program of that directory; 0 where there is none."""
    beginning = f"{path.as_posix()}/"
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if any(word.replace("\\", "/").startswith(beginning) for word in words[:2]):
            return int(process.pid)
    return 0


def _imports_from(path: Path) -> int:
    """A process that was told to import from that folder; 0 where there is none."""
    written = repr(str(path))[1:-1]  # as it stands in the program that it was given
    for process in psutil.process_iter(["cmdline"]):
        if any(written in word for word in process.info["cmdline"] or ()):
            return int(process.pid)
    return 0


def _used_file(root: Path, digest: str) -> Path:
    return root / "locks" / f"{digest}.used"
