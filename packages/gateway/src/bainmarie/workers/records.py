"""Which process trees a gateway has started, written down so that the next one can end what a murder left behind.

One file for each shim: its pid, its start time, the boot it was started in, and a secret word that every process of its
tree carries in its environment (`BAIN_WORKER`). A process is ended only if it carries that word, or is the very shim
(same pid, same start time, same boot). Names and command lines are never looked at. Of a worker that may outlive its
gateway the record also has a note for the next one (see succession.py).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bainmarie.workers.sockets import socket_in

_log = logging.getLogger(__name__)

WORD = "BAIN_WORKER"
_SAME = 0.02
"""Seconds by which two readings of one start time may differ."""
_PATIENCE = 5.0
"""For the kernel to free what was killed."""


@dataclass(frozen=True)
class Record:
    """One shim."""

    word: str
    pid: int
    started: float
    boot: str
    note: dict[str, Any] | None = None
    """`Note.to_json`, where the worker is ready and may outlive its gateway."""


class Records:
    """The records of one home, in a folder of their own. Blocking, but short; `sweep` reads every process's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def new_word() -> str:
        """All words have one length: a forked process overwrites its fork server's in place."""
        return secrets.token_hex(16)

    def add(self, word: str, pid: int) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(psutil.NoSuchProcess):  # it is gone already, and so is its tree
            self._write(Record(word, pid, psutil.Process(pid).create_time(), boot()))

    def note(self, word: str, note: dict[str, Any] | None) -> None:
        """Adds the note to that record, or takes it away. Nothing where there is no such record (any more)."""
        record = self._read(word)
        if record is not None:
            self._write(replace(record, note=note))

    def remove(self, word: str) -> None:
        self._file(word).unlink(missing_ok=True)

    def get(self, word: str) -> Record | None:
        """None where there is none, or it cannot be read."""
        return self._read(word)

    def all(self) -> list[Record]:
        """Those that can be read."""
        found = [self._read(file.stem) for file in sorted(self._folder.glob("*.json"))]
        return [record for record in found if record is not None]

    def socket(self, word: str) -> str:
        """Where that shim waits for another gateway."""
        return socket_in(self._folder, word)

    def sweep(self, spared: Collection[str] = ()) -> int:
        """Ends what is left of trees that nobody owns any more; how many processes there were. The home is locked."""
        return sum(self.end(file.stem) for file in sorted(self._folder.glob("*.json")) if file.stem not in spared)

    def end(self, word: str) -> int:
        """Ends what is left of one tree, and forgets it."""
        ended, record = 0, self._read(word)
        if record is not None and record.boot == boot():
            ended = _end(record)
        self._file(word).unlink(missing_ok=True)
        if record is not None and record.note is not None:
            Path(self.socket(word)).unlink(missing_ok=True)
        return ended

    def _read(self, word: str) -> Record | None:
        with suppress(ValueError, TypeError, OSError):
            return Record(**json.loads(self._file(word).read_text()))
        return None

    def _write(self, record: Record) -> None:
        """A reader finds the old one or the new one. It may hold a token: nobody else can read it."""
        draft = self._folder / f"{record.word}.draft"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(record), file)
        draft.replace(self._file(record.word))

    def _file(self, word: str) -> Path:
        return self._folder / f"{word}.json"


def boot() -> str:
    """Names this run of the system: no pid is the same before and after."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(round(psutil.boot_time()))


def is_the_shim(record: Record) -> bool:
    """Whether the process that has its number now is the one that was written down, in this run of the system."""
    with suppress(psutil.Error):
        return abs(psutil.Process(record.pid).create_time() - record.started) < _SAME
    return False


def _end(record: Record) -> int:
    seen = set[int]()
    deadline = time.monotonic() + _PATIENCE
    while (left := list(_left(record))) and time.monotonic() < deadline:
        for process in left:
            seen.add(process.pid)
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.2)
    if left:
        _log.error("%d processes of a former gateway cannot be ended", len(left))
    return len(seen)


def _left(record: Record) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            the_shim = process.pid == record.pid and abs(process.create_time() - record.started) < _SAME
            if the_shim or process.environ().get(WORD) == record.word:
                yield process
