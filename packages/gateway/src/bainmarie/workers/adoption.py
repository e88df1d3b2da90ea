"""The workers that a former gateway has left alive: each is adopted, or ended and reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bainmarie.workers import adopted
from bainmarie.workers.group import Group
from bainmarie.workers.launch import LocalLauncher
from bainmarie.workers.note import Note
from bainmarie.workers.records import Record, Records, boot, is_the_shim
from bainmarie_protocol import PROTOCOL

_log = logging.getLogger(__name__)


async def take_over(records: Records, launcher: LocalLauncher, groups: Mapping[str, Group]) -> None:
    """Adopts whatever fits one of `groups` (by worker key) and ends all else of the records.

    Before anything is started: no model ever has two processes.
    """
    spared, swept = set[str](), 0
    for record in await asyncio.to_thread(records.all):
        note = _read(record)
        if note is None:
            swept += await asyncio.to_thread(records.end, record.word)
            continue
        group = groups.get(note.worker_key)
        reason = why_not(note, group)
        if not reason and group is not None:
            reason = await _adopt(record, note, group, records, launcher)
        if not reason:
            spared.add(record.word)
            continue
        ended = await asyncio.to_thread(records.end, record.word)
        _log.warning("the worker of %r was not adopted (%s): %d processes ended", note.name, reason, ended)
    swept += await asyncio.to_thread(records.sweep, spared)
    if swept:
        _log.warning("ended %d processes that a former gateway had left behind", swept)


def why_not(note: Note, group: Group | None) -> str:
    """Why a worker cannot be adopted, whatever its process says; empty where it may be."""
    if group is None:
        return "the configuration has no such model any more, or has changed it"
    if note.protocol != PROTOCOL:
        return f"it belongs to bainmarie {note.version}, which speaks another protocol"
    if note.identity != group.identity:
        return "its model or environment has changed in the configuration"
    if group.worker.pid is not None:
        return "the model has a worker already"
    return ""


async def _adopt(record: Record, note: Note, group: Group, records: Records, launcher: LocalLauncher) -> str:
    """Why it failed; empty where the worker is the group's now."""
    if record.boot != boot() or not is_the_shim(record):
        return "it ended with its gateway"
    try:
        path = records.socket(record.word)
        launched = await adopted.adopt(record.word, path, record.pid, note.pid, Path(note.log))
    except adopted.AdoptionFailed as error:
        return str(error)
    launcher.adopted(launched)
    await group.adopt(launched, note)
    _log.info("adopted the worker of %r, pid %d", note.name, note.pid)
    return ""


def _read(record: Record) -> Note | None:
    if record.note is None:
        return None
    with suppress(TypeError, KeyError, AttributeError):
        return Note.from_json(record.note)
    return None
