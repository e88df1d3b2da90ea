"""The rows of approvals: what a person was asked, and what they said. Functions within the caller's transaction."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Connection, RowMapping, bindparam, insert, select, update

from bainmarie.agent.items import Scope
from bainmarie.store.clock import now
from bainmarie.store.tables import approvals, runs, tool_calls

ApprovalState = Literal["open", "approved", "denied", "withdrawn"]


@dataclass(frozen=True)
class ApprovalRequest:
    """One question about one call, bound to it by two hashes. Once it is not `open` it never changes again."""

    id: str
    run_id: str
    call_id: str
    tool: str
    arguments: dict[str, object]
    arguments_hash: str
    """Of the canonical arguments."""
    definition_hash: str
    """Of the tool's definition."""
    created_at: str
    state: ApprovalState = "open"
    scope: Scope = "once"
    reason: str = ""
    decided_at: str | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Grant:
    """`Always in this session`: a tool that needs no further question while its definition stays the same."""

    tool: str
    definition_hash: str


# Made once: building and hashing a statement costs more than running it.
_ABOUT_CALL = (
    select(approvals)
    .where(approvals.c.call_id == bindparam("call"), approvals.c.state != "withdrawn")
    .order_by(approvals.c.created_at.desc())
    .limit(1)
)
_OF_RUN = (
    select(approvals)
    .where(approvals.c.run_id == bindparam("run"), approvals.c.state != "withdrawn")
    .order_by(approvals.c.created_at)
)
_GRANTS = (
    select(approvals.c.tool, approvals.c.definition_hash)
    .join(runs, runs.c.id == approvals.c.run_id)
    .where(runs.c.session == bindparam("session"), approvals.c.state == "approved", approvals.c.scope == "session")
    .distinct()
)


def add(connection: Connection, request: ApprovalRequest) -> None:
    """Save an open request."""
    values = {**asdict(request), "arguments": json.dumps(request.arguments, ensure_ascii=False)}
    connection.execute(insert(approvals).values(**values))


def find(connection: Connection, approval_id: str) -> ApprovalRequest | None:
    """The request of that id."""
    row = connection.execute(select(approvals).where(approvals.c.id == approval_id)).mappings().one_or_none()
    return _request(row) if row else None


def latest(connection: Connection, call_id: str) -> ApprovalRequest | None:
    """The newest request about a call that was not withdrawn."""
    row = connection.execute(_ABOUT_CALL, {"call": call_id}).mappings().one_or_none()
    return _request(row) if row else None


def of_run(connection: Connection, run_id: str) -> dict[str, ApprovalRequest]:
    """The newest request about each of the run's calls that was not withdrawn, by the call's id."""
    rows = connection.execute(_OF_RUN, {"run": run_id}).mappings()
    return {row["call_id"]: _request(row) for row in rows}


def waiting(connection: Connection) -> list[ApprovalRequest]:
    """Every open request, the oldest first."""
    query = select(approvals).where(approvals.c.state == "open").order_by(approvals.c.created_at)
    return [_request(row) for row in connection.execute(query).mappings()]


def settle(connection: Connection, request: ApprovalRequest, state: ApprovalState, scope: Scope, reason: str) -> bool:
    """Write the decision, once: False where it is no longer open."""
    still = update(approvals).where(approvals.c.id == request.id, approvals.c.state == "open")
    if connection.execute(still.values(state=state, scope=scope, reason=reason, decided_at=now())).rowcount != 1:
        return False
    proposed = update(tool_calls).where(tool_calls.c.id == request.call_id, tool_calls.c.state == "proposed")
    connection.execute(proposed.values(state="approved" if state == "approved" else "denied"))
    return True


def withdraw(connection: Connection, run_id: str) -> list[str]:
    """Take back the run's open requests; their ids."""
    about = (approvals.c.run_id == run_id) & (approvals.c.state == "open")
    ids = list(connection.execute(select(approvals.c.id).where(about)).scalars())
    connection.execute(update(approvals).where(about).values(state="withdrawn", decided_at=now()))
    return ids


def grants(connection: Connection, session: str) -> list[Grant]:
    """What was allowed for the whole session, in any of its runs."""
    rows = connection.execute(_GRANTS, {"session": session})
    return [Grant(tool, definition) for tool, definition in rows]


def _request(row: RowMapping) -> ApprovalRequest:
    fields = {name: row[name] for name in ApprovalRequest.__dataclass_fields__ if name in row}
    return ApprovalRequest(**{**fields, "arguments": json.loads(row["arguments"])})
