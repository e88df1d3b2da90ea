"""The tables, in their newest form. `migrations` brings an older database to it."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("session", String, nullable=False),
    Column("status", String, nullable=False),
    Column("request", Text, nullable=False),
    Column("text", Text, nullable=False, default=""),
    Column("error", Text),
    Column("timings", Text, nullable=False, default="[]"),
    Column("created_at", String, nullable=False),
    Column("ended_at", String),
    Index("runs_by_session", "session"),
)

items = Table(
    "items",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("type", String, nullable=False),
    Column("call_id", String),
    Column("body", Text, nullable=False),
    Column("created_at", String, nullable=False),
)

# Each call has one result and stands in the history once, whatever the code above the database does.
Index(
    "one_result_a_call",
    items.c.call_id,
    items.c.type,
    unique=True,
    sqlite_where=items.c.type.in_(["tool_call", "tool_result"]),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome_status", String),
    Column("outcome_text", Text),
    Column("started_at", String),
    Column("seconds", Float),
    Index("calls_by_run", "run_id"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("call_id", ForeignKey("tool_calls.id"), nullable=False),
    Column("tool", String, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("arguments_hash", String, nullable=False),
    Column("definition_hash", String, nullable=False),
    Column("state", String, nullable=False),
    Column("scope", String),
    Column("reason", Text),
    Column("created_at", String, nullable=False),
    Column("decided_at", String),
    Index("approvals_by_call", "call_id"),
    Index("approvals_by_run", "run_id"),
    Index("approvals_by_state", "state"),
)
