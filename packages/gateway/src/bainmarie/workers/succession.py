"""Ready workers that outlive their gateway: what is written down for the next one, and what their shims are told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bainmarie import __version__
from bainmarie.workers.adopted import AdoptionFailed, adopt
from bainmarie.workers.launch import LaunchedWorker, LocalWorker
from bainmarie.workers.note import LastUse, Note
from bainmarie.workers.records import Records, is_the_shim
from bainmarie.workers.tries import iso
from bainmarie.workers.worker import Process, Worker
from bainmarie_protocol import PROTOCOL

HANDOVER_SECONDS = 60.0
"""How long a shim waits for the gateway that has asked to take over: it is there already."""


class Succession:
    """For the workers of one gateway. With `survive` they outlive its crash for so many seconds.

    One that `takes_over` leaves adopted workers as they are, fit to go back to its predecessor, until it is told that
    this is over.
    """

    def __init__(self, records: Records, survive: float = 0.0, *, takes_over: bool = False) -> None:
        self._records = records
        self._survive = survive
        self.takes_over = takes_over

    def keep(self, launched: LaunchedWorker, note: Note, *, adopted: bool = False) -> None:
        """The worker is ready, or something of the note has changed."""
        if adopted and self.takes_over:
            return
        if self._survive:
            self._prepare(launched, note, self._survive)
        elif adopted:  # as all others of this gateway: it ends with it
            assert isinstance(launched, LocalWorker)
            self._records.note(launched.word, None)
            launched.say("survive 0 ")

    def release(self, launched: LaunchedWorker, note: Note) -> None:
        """Lets the worker go for the gateway that takes over; nothing here can end it any more."""
        self._prepare(launched, note, HANDOVER_SECONDS)
        assert isinstance(launched, LocalWorker)
        launched.release()

    async def regain(self, launched: LaunchedWorker, pid: int) -> str:
        """The released worker, whose process has that pid, is this gateway's again; else why not."""
        assert isinstance(launched, LocalWorker)
        record = await asyncio.to_thread(self._records.get, launched.word)
        try:
            if record is None or not is_the_shim(record):
                raise AdoptionFailed("it has ended meanwhile")
            launched.regain(await adopt(record.word, self._records.socket(record.word), record.pid, pid, launched.log))
        except AdoptionFailed as error:
            launched.give_up(None)
            await asyncio.to_thread(self._records.end, launched.word)
            return str(error)
        return ""

    def _prepare(self, launched: LaunchedWorker, note: Note, seconds: float) -> None:
        assert isinstance(launched, LocalWorker)
        self._records.note(launched.word, note.to_json())
        launched.say(f"survive {seconds:g} {self._records.socket(launched.word)}")


def note_of(
    worker: Worker,
    process: Process,
    identity: str,
    adapters: tuple[str, ...],
    uses: Mapping[str, LastUse],
    busy: bool,
) -> Note:
    """What the next gateway must know of this ready worker."""
    spec = process.spec
    return Note(
        name=worker.models[0].name,
        worker_key=worker.models[0].worker_key,
        identity=identity,
        version=__version__,
        protocol=PROTOCOL,
        pid=worker.pid or 0,
        socket=spec.config.socket,
        port=process.port,
        token=spec.config.token,
        foreign=spec.door is not None,
        log=str(spec.log),
        environment=worker.environment,
        loaded_at=iso(worker.loaded_at) if worker.loaded_at else "",
        load_seconds=worker.load_seconds,
        info=worker.info,
        adapters=adapters,
        uses=uses,
        busy=busy,
    )
