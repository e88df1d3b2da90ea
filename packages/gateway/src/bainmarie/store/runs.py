"""Runs, their items, and the journal of their calls.

A call's states, moved here and nowhere else:

    proposed -> approved -> running -> done
       |           |           `----> interrupted -> running   (only where its tool is idempotent)
       |           `---------> running
       `-> denied | done (an error before it could run)
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select, update

from bainmarie.agent.items import Item, ToolCall, ToolResult, from_json, kind_of, to_json
from bainmarie.agent.tools.tool import Outcome
from bainmarie.errors import ApprovalFailed, NotFound
from bainmarie.store.approvals import ApprovalRequest, Grant, grants, latest, of_run
from bainmarie.store.clock import now
from bainmarie.store.database import Database
from bainmarie.store.tables import items, runs, tool_calls

RunStatus = Literal[
    "running", "completed", "all_denied", "max_iterations", "failed", "cancelled", "requires_action", "interrupted"
]
CallState = Literal["proposed", "approved", "denied", "running", "done", "interrupted"]


@dataclass(frozen=True)
class RunRecord:
    """A run as it is saved. `request`, `error` and `timings` are JSON of their owners."""

    id: str
    session: str
    status: RunStatus
    request: dict[str, object]
    created_at: str
    text: str = ""
    error: dict[str, object] | None = None
    timings: tuple[dict[str, object], ...] = ()
    ended_at: str | None = None


@dataclass(frozen=True)
class JournalEntry:
    """How far one call has come. `outcome` is there when it is done."""

    call_id: str
    state: CallState
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Binding:
    """What exactly is about to run: hashes of its canonical arguments and of its tool's definition."""

    arguments_hash: str
    definition_hash: str


@dataclass(frozen=True)
class Standing:
    """What is known of a run's calls."""

    journal: Mapping[str, JournalEntry]
    approvals: Mapping[str, ApprovalRequest]
    """The newest question about each call that a person was asked about."""
    grants: Collection[Grant]
    """What the run's session needs no question for."""


# Made once: building and hashing a statement costs more than running it.
_TOP = select(func.max(items.c.position)).where(items.c.run_id == bindparam("run"))
_ADD_ITEM = insert(items)
_ADD_CALL = insert(tool_calls)
_ANSWERED = (
    update(tool_calls)
    .where(tool_calls.c.id == bindparam("call"), tool_calls.c.state.in_(["proposed", "approved"]))
    .values(state=bindparam("ended"))
)
_JOURNAL = select(tool_calls).where(tool_calls.c.run_id == bindparam("run"))


class RunStore:
    """Everything about runs that must outlive a crash. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, record: RunRecord, given: Sequence[Item]) -> None:
        """A new run with the items it starts from."""

        def work(connection: Connection) -> None:
            values = {"id": record.id, "session": record.session, "status": record.status}
            values |= {"created_at": record.created_at, "text": "", "timings": "[]"}
            connection.execute(insert(runs).values(request=json.dumps(record.request), **values))
            append(connection, record.id, given)

        await self._database.call(work)

    async def get(self, run_id: str) -> RunRecord:
        """NotFound where there is none of that id."""

        def work(connection: Connection) -> RunRecord | None:
            row = connection.execute(select(runs).where(runs.c.id == run_id)).mappings().one_or_none()
            return _record(row) if row else None

        record = await self._database.call(work)
        if record is None:
            raise NotFound(f"there is no run {run_id!r}", code="run_not_found")
        return record

    async def recent(self, count: int) -> list[RunRecord]:
        """The newest first."""

        def work(connection: Connection) -> list[RunRecord]:
            query = select(runs).order_by(runs.c.created_at.desc()).limit(count)
            return [_record(row) for row in connection.execute(query).mappings()]

        return await self._database.call(work)

    async def items(self, run_id: str) -> list[Item]:
        """All items of a run, in order."""

        def work(connection: Connection) -> list[str]:
            query = select(items.c.body).where(items.c.run_id == run_id).order_by(items.c.position)
            return list(connection.execute(query).scalars())

        return [from_json(json.loads(body)) for body in await self._database.call(work)]

    async def append(self, run_id: str, *new: Item) -> None:
        """Save items; the model's calls are journalled as `proposed`, results end theirs."""
        await self._database.call(lambda connection: append(connection, run_id, new))

    async def standing(self, run_id: str, session: str) -> Standing:
        """Everything that decides what becomes of the run's calls."""

        def work(connection: Connection) -> Standing:
            rows = connection.execute(_JOURNAL, {"run": run_id}).mappings()
            journal = {row["id"]: _entry(row) for row in rows}
            return Standing(journal, of_run(connection, run_id), grants(connection, session))

        return await self._database.call(work)

    async def start(self, call_id: str, binding: Binding, again: bool) -> None:
        """Journal a call as running, which it must not be twice: `again` lets an interrupted one run once more.

        ApprovalFailed where it has run before, was denied, is not decided, or is not what the person approved.
        """

        def work(connection: Connection) -> None:
            approval = latest(connection, call_id)
            if approval is not None:
                if approval.state != "approved":
                    raise ApprovalFailed(f"the call of {approval.tool} is {approval.state}; it was not run")
                if approval.arguments_hash != binding.arguments_hash:
                    raise ApprovalFailed(f"the arguments of {approval.tool} are not the approved ones; it was not run")
                if approval.definition_hash != binding.definition_hash:
                    raise ApprovalFailed(f"the tool {approval.tool} has changed since it was approved; it was not run")
            allowed = ["proposed", "approved", *(["interrupted"] if again else [])]
            claim = update(tool_calls).where(tool_calls.c.id == call_id, tool_calls.c.state.in_(allowed))
            if connection.execute(claim.values(state="running", started_at=now())).rowcount != 1:
                raise ApprovalFailed(f"the call {call_id} has run before, or was denied; it was not run")

        await self._database.call(work)

    async def finish(self, call_id: str, outcome: Outcome, seconds: float) -> None:
        """Journal what a running call came to."""
        await self._database.call(lambda connection: _finish(connection, call_id, outcome, seconds))

    async def interrupt(self, run_id: str) -> None:
        """Journal the run's running calls as interrupted: nobody knows how far they came."""
        await self._database.call(lambda connection: _interrupt(connection, run_id))

    async def reopen(self, run_id: str) -> None:
        """The run goes on."""
        await self._database.call(
            lambda connection: connection.execute(
                update(runs).where(runs.c.id == run_id).values(status="running", error=None, ended_at=None)
            )
        )

    async def end(
        self,
        run_id: str,
        status: RunStatus,
        text: str = "",
        error: dict[str, object] | None = None,
        timings: Sequence[dict[str, object]] = (),
    ) -> None:
        """The run has ended, for now or for good. Timings are added to those of earlier parts."""

        def work(connection: Connection) -> None:
            before = connection.execute(select(runs.c.timings).where(runs.c.id == run_id)).scalar_one()
            values = {"status": status, "text": text, "error": json.dumps(error) if error else None, "ended_at": now()}
            whole = json.dumps([*json.loads(before), *timings])
            connection.execute(update(runs).where(runs.c.id == run_id).values(timings=whole, **values))

        await self._database.call(work)

    async def recover(self) -> int:
        """After a start: what still says `running` was cut off by a crash. How many runs that were."""

        def work(connection: Connection) -> int:
            _interrupt(connection, None)
            cut = update(runs).where(runs.c.status == "running").values(status="interrupted", ended_at=now())
            return connection.execute(cut).rowcount

        return await self._database.call(work)


def append(connection: Connection, run_id: str, new: Sequence[Item]) -> None:
    """Add items behind the run's last one, within the caller's transaction."""
    if not new:
        return
    top = connection.execute(_TOP, {"run": run_id}).scalar_one()
    first, time = 0 if top is None else top + 1, now()
    rows = [
        {
            "run_id": run_id,
            "position": position,
            "type": kind_of(item),
            "call_id": item.id
            if isinstance(item, ToolCall)
            else item.call_id
            if isinstance(item, ToolResult)
            else None,
            "body": json.dumps(to_json(item), ensure_ascii=False),
            "created_at": time,
        }
        for position, item in enumerate(new, first)
    ]
    connection.execute(_ADD_ITEM, rows)
    calls = [item for item in new if isinstance(item, ToolCall) and item.iteration > 0]
    if calls:
        connection.execute(
            _ADD_CALL, [{"id": call.id, "run_id": run_id, "name": call.name, "state": "proposed"} for call in calls]
        )
    for result in (item for item in new if isinstance(item, ToolResult)):
        ended = "denied" if result.status == "denied" else "done"
        connection.execute(_ANSWERED, {"call": result.call_id, "ended": ended})


def _call_of(item: Item) -> str | None:
    """The call that a call's or a result's row belongs to; what has none must not meet the unique index."""
    if isinstance(item, ToolCall):
        return item.id
    return item.call_id if isinstance(item, ToolResult) else None


def _finish(connection: Connection, call_id: str, outcome: Outcome, seconds: float) -> None:
    values = {"outcome_status": outcome.status, "outcome_text": outcome.text, "seconds": seconds}
    running = update(tool_calls).where(tool_calls.c.id == call_id, tool_calls.c.state == "running")
    connection.execute(running.values(state="done", **values))


def _interrupt(connection: Connection, run_id: str | None) -> None:
    running = update(tool_calls).where(tool_calls.c.state == "running")
    if run_id is not None:
        running = running.where(tool_calls.c.run_id == run_id)
    connection.execute(running.values(state="interrupted"))


def _record(row: RowMapping) -> RunRecord:
    return RunRecord(
        id=row["id"],
        session=row["session"],
        status=row["status"],
        request=json.loads(row["request"]),
        created_at=row["created_at"],
        text=row["text"],
        error=json.loads(row["error"]) if row["error"] else None,
        timings=tuple(json.loads(row["timings"])),
        ended_at=row["ended_at"],
    )


def _entry(row: RowMapping) -> JournalEntry:
    status = cast("Literal['success', 'error'] | None", row["outcome_status"])
    outcome = Outcome(status, row["outcome_text"]) if status else None
    return JournalEntry(row["id"], row["state"], outcome)
