"""All runs of a gateway: starting, resuming, cancelling them, and how each is told to the world."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bainmarie.agent import history
from bainmarie.agent.approvals import Approvals
from bainmarie.agent.calls import Calls, Policy
from bainmarie.agent.events import RunEvent
from bainmarie.agent.items import to_json
from bainmarie.agent.loop import Ending, Loop
from bainmarie.agent.policy import ToolSettings
from bainmarie.agent.request import RunRequest, saved_request
from bainmarie.agent.run import DONE, Run
from bainmarie.agent.timings import Timing
from bainmarie.agent.tools.builtin import BuiltinTools
from bainmarie.agent.tools.tool import Toolset
from bainmarie.agent.worker_chat import Models
from bainmarie.catalog import Catalog
from bainmarie.errors import BadRequest, BainError, OverCapacity
from bainmarie.store.clock import now
from bainmarie.store.database import Database
from bainmarie.store.runs import RunRecord, RunStatus, RunStore

_log = logging.getLogger(__name__)

_RESUMABLE: tuple[RunStatus, ...] = ("requires_action", "interrupted", "failed", "cancelled")

Publish = Callable[[str, dict[str, object]], None]


class _Internal(BainError):
    code = "internal_error"


@dataclass(frozen=True)
class _Outcome:
    status: RunStatus
    text: str = ""
    error: dict[str, object] | None = None


class Runs:
    """Owns the active runs and the database they are saved in. `recover` once at the start, `close` at the end."""

    def __init__(
        self,
        database: Database,
        models: Models,
        catalog: Catalog,
        settings: ToolSettings,
        publish: Publish = lambda kind, data: None,
    ) -> None:
        self._database = database
        self._store = RunStore(database)
        self._models = models
        self._catalog = catalog
        self._settings = settings
        self._publish = publish
        self._active: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._closing = False
        self.approvals = Approvals(database)

    def change(self, settings: ToolSettings) -> None:
        """For runs that start from now on."""
        self._settings = settings

    async def recover(self) -> int:
        """Marks the runs that a crash cut off as interrupted; how many there were. Before anything is started."""
        return await self._store.recover()

    async def start(self, request: RunRequest) -> Run:
        """A new run, saved and under way.

        NotFound for a model that is not in the catalog, BadRequest for tools or a workspace that cannot be.
        """
        self._catalog.get(request.model)
        request = replace(request, workspace=self._workspace(request))
        toolset = BuiltinTools(request.workspace, request.tools)
        run = Run(f"run_{uuid.uuid4().hex[:16]}", request)
        record = RunRecord(run.id, request.session or run.id, "running", request.to_json(), now())
        await self._store.create(record, request.given)
        return self._begin(run, record, toolset)

    async def resume(self, run_id: str, interactive: bool | None = None) -> Run:
        """Go on with a run that waits for a decision or was cut off: its open calls are answered first.

        NotFound; BadRequest where it is active, or has ended for good.
        """
        record = await self._store.get(run_id)
        if run_id in self._active or record.status not in _RESUMABLE:
            raise BadRequest(f"the run {run_id} is {record.status} and cannot be resumed", code="run_not_resumable")
        request = saved_request(record.request)
        if interactive is not None:
            request = replace(request, interactive=interactive)
        toolset = BuiltinTools(request.workspace, request.tools)
        run = Run(run_id, request)
        return self._begin(run, record, toolset)

    def active(self, run_id: str) -> Run | None:
        """The run while it is under way."""
        found = self._active.get(run_id)
        return found[0] if found else None

    async def cancel(self, run_id: str) -> dict[str, object]:
        """End a run and wait for its end; what it came to. A run that has ended stays as it is. NotFound."""
        if run := self.active(run_id):
            run.cancel()
            await run.ended()
        return await self.described(run_id)

    async def described(self, run_id: str) -> dict[str, object]:
        """All that is known of a run, as JSON. NotFound."""
        record = await self._store.get(run_id)
        items = await self._store.items(run_id)
        more = {"created_at": record.created_at, "ended_at": record.ended_at, "request": record.request}
        return {**await self._told(record), **more, "items": [to_json(item) for item in items]}

    async def recent(self, count: int = 50) -> list[dict[str, object]]:
        """The newest runs, in a few words each."""
        records = await self._store.recent(count)
        names = ("status", "created_at", "ended_at")
        return [{"run_id": r.id, "model": r.request["model"], **{n: getattr(r, n) for n in names}} for r in records]

    async def ended(self, patience: float) -> None:
        """Returns when those that are under way now have ended, or after so many seconds."""
        if tasks := [task for _, task in self._active.values()]:
            await asyncio.wait(tasks, timeout=patience)

    async def close(self) -> None:
        """Interrupts every run, so that it can be resumed later, and closes the database. Nothing starts any more."""
        await self._interrupt()
        await self._database.close()

    async def pause(self) -> None:
        """As `close`, until `go_on`: another gateway is to have the database."""
        await self._interrupt()
        await self._database.release()

    def go_on(self) -> None:
        """The other gateway is gone."""
        self._database.take_back()
        self._closing = False

    async def _interrupt(self) -> None:
        self._closing = True
        running = list(self._active.values())
        for run, _ in running:
            run.cancel()
        await asyncio.gather(*(task for _, task in running))

    def _begin(self, run: Run, record: RunRecord, toolset: Toolset) -> Run:
        if self._closing:
            raise OverCapacity("the gateway is shutting down", code="shutting_down")
        task = asyncio.create_task(self._drive(run, record, toolset), name=run.id)
        self._active[run.id] = (run, task)
        return run

    async def _drive(self, run: Run, record: RunRecord, toolset: Toolset) -> None:
        """The run from its first step to its `done` event."""
        timings: list[Timing] = []
        self._publish("run", {"run_id": run.id, "model": run.request.model, "status": "running"})
        try:
            if not run.begin():
                raise asyncio.CancelledError
            ending = await self._loop(run, record, toolset, timings)
            outcome = _Outcome(ending.status, ending.text)
        except asyncio.CancelledError:
            outcome = _Outcome("interrupted" if self._closing else "cancelled")
        except BainError as error:
            outcome = _Outcome("failed", error=_error(error))
        except Exception as error:  # noqa: BLE001 whatever it is, the run's followers are told
            _log.exception("run %s failed", run.id)
            internal = _Internal(f"the run failed: {type(error).__name__}: {error}", hint="See the gateway's log.")
            outcome = _Outcome("failed", error=_error(internal))
        await self._end(run, outcome, timings)

    async def _loop(self, run: Run, record: RunRecord, toolset: Toolset, timings: list[Timing]) -> Ending:
        request = run.request

        def loading(status: dict[str, object]) -> None:
            run.tell(RunEvent("status", status))

        await self._store.reopen(run.id)
        async with self._models.hold(request.model, request.sampling, loading) as chat:
            calls = Calls(run.id, toolset, self.approvals, self._store, self._policy(request, record), run.tell)
            limit = request.max_iterations or self._settings.max_iterations
            return await Loop(run.id, chat, toolset, calls, self._store, run.tell, limit, timings).run()

    async def _end(self, run: Run, outcome: _Outcome, timings: Sequence[Timing]) -> None:
        try:
            if outcome.status in ("cancelled", "failed"):
                await self.approvals.withdraw(run.id)
            told = [timing.to_json() for timing in timings]
            await self._store.end(run.id, outcome.status, outcome.text, outcome.error, told)
            done = await self._told(await self._store.get(run.id))
        except Exception as error:  # noqa: BLE001 a full disk: the followers must hear of the end all the same
            _log.exception("the end of run %s was not saved", run.id)
            failed = _error(_Internal(f"the run's end could not be saved: {error}"))
            done = {"run_id": run.id, "status": "failed", "text": outcome.text, "log": [], "error": failed}
        self._active.pop(run.id, None)
        run.tell(RunEvent(DONE, done))
        self._publish("run", {"run_id": run.id, "model": run.request.model, "status": done["status"]})

    async def _told(self, record: RunRecord) -> dict[str, object]:
        """The `done` event's data."""
        items = await self._store.items(record.id)
        told: dict[str, object] = {"run_id": record.id, "status": record.status, "text": record.text}
        told |= {"log": history.log(items), "timings": list(record.timings)}
        if record.error:
            told["error"] = record.error
        if record.status == "requires_action":
            waiting = [request for request in await self.approvals.open() if request.run_id == record.id]
            told["approvals"] = [request.to_json() for request in waiting]
        return told

    def _policy(self, request: RunRequest, record: RunRecord) -> Policy:
        return Policy(
            rules=(*self._settings.rules, *request.rules),
            default=request.approval or self._settings.approval,
            interactive=request.interactive,
            session=record.session,
            time_limit=self._settings.time_limit,
        )

    def _workspace(self, request: RunRequest) -> Path | None:
        only = self._settings.workspace
        if only is None or request.workspace is None:
            return request.workspace or only
        asked, home = request.workspace.resolve(), only.resolve()
        if asked != home and home not in asked.parents:
            raise BadRequest(
                f"the workspace {asked} is not in {home}, the only one that the configuration allows", param="workspace"
            )
        return request.workspace


def _error(error: BainError) -> dict[str, object]:
    told = error.to_json()["error"]
    assert isinstance(told, dict)
    return told
