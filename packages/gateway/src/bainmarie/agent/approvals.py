"""Approvals: asking a person about a call, waiting for the answer, and taking it once.

Everything is saved first, so that a question outlives the gateway; waiting is only for runs that stay open meanwhile.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

from sqlalchemy import Connection

from bainmarie.agent.items import ApprovalDecided, ApprovalRequested, Choice, Scope
from bainmarie.agent.tools.tool import Arguments, Tool, canonical_hash
from bainmarie.errors import ApprovalFailed, NotFound
from bainmarie.store import approvals as rows
from bainmarie.store.approvals import ApprovalRequest
from bainmarie.store.clock import now
from bainmarie.store.database import Database
from bainmarie.store.runs import append


class Approvals:
    """All approvals of this gateway."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed: dict[str, asyncio.Event] = {}

    async def ask(self, run_id: str, call_id: str, tool: Tool, arguments: Arguments) -> ApprovalRequest:
        """Save a question about exactly this call of exactly this tool."""
        request = ApprovalRequest(
            id=f"appr_{uuid.uuid4().hex[:16]}",
            run_id=run_id,
            call_id=call_id,
            tool=tool.name,
            arguments=arguments,
            arguments_hash=canonical_hash(arguments),
            definition_hash=tool.definition_hash,
            created_at=now(),
        )

        def work(connection: Connection) -> None:
            rows.add(connection, request)
            append(connection, run_id, [ApprovalRequested(request.id, call_id)])

        await self._database.call(work)
        return request

    async def wait(self, approval_id: str) -> ApprovalRequest:
        """The request when it is no longer open. Cancelling the wait leaves it open."""
        changed = self._changed.setdefault(approval_id, asyncio.Event())
        try:
            while (request := await self.get(approval_id)).state == "open":
                await changed.wait()
            return request
        finally:
            self._changed.pop(approval_id, None)

    async def get(self, approval_id: str) -> ApprovalRequest:
        """NotFound where there is none of that id."""
        request = await self._database.call(lambda connection: rows.find(connection, approval_id))
        if request is None:
            raise NotFound(f"there is no approval {approval_id!r}", code="approval_not_found")
        return request

    async def decide(
        self, approval_id: str, decision: Choice, scope: Scope = "once", reason: str = "", arguments_hash: str = ""
    ) -> ApprovalRequest:
        """Save a person's decision and wake the run that waits for it.

        NotFound; ApprovalFailed where it is decided or withdrawn already, or where the person saw other arguments
        (`arguments_hash`, if given, is of what they saw).
        """
        request = await self.get(approval_id)
        if arguments_hash and arguments_hash != request.arguments_hash:
            raise ApprovalFailed("the arguments are not the ones that were shown", code="arguments_changed")
        state: rows.ApprovalState = "approved" if decision == "approve" else "denied"
        item = ApprovalDecided(approval_id, request.call_id, decision, scope, reason)

        def work(connection: Connection) -> bool:
            done = rows.settle(connection, request, state, scope, reason)
            if done:
                append(connection, request.run_id, [item])
            return done

        if not await self._database.call(work):
            stands = (await self.get(approval_id)).state
            raise ApprovalFailed(f"the approval {approval_id} is {stands} already", code="approval_decided")
        self._wake(approval_id)
        return replace(request, state=state, scope=scope, reason=reason, decided_at=now())

    async def open(self) -> list[ApprovalRequest]:
        """Every question that waits for a person, the oldest first."""
        return await self._database.call(rows.waiting)

    async def withdraw(self, run_id: str) -> None:
        """Take back the run's open questions: it is over."""
        for approval_id in await self._database.call(lambda connection: rows.withdraw(connection, run_id)):
            self._wake(approval_id)

    def _wake(self, approval_id: str) -> None:
        if approval_id in self._changed:
            self._changed[approval_id].set()
