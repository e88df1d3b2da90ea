"""What becomes of one call: refused, waiting for a person, or run once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from bainmarie.agent.approvals import Approvals
from bainmarie.agent.events import Emit, RunEvent
from bainmarie.agent.items import ApprovalDecided, ApprovalRequested, Choice, Item, ToolCall, ToolResult, to_json
from bainmarie.agent.policy import Action, Rule, decide
from bainmarie.agent.timings import Stopwatch
from bainmarie.agent.tools import arguments as argument_check
from bainmarie.agent.tools.tool import Arguments, Outcome, Tool, ToolFailed, Toolset, canonical_hash
from bainmarie.store.runs import Binding, RunStore, Standing

_log = logging.getLogger(__name__)

DENIED = "Denied: the user did not allow this call."
CUT_OFF = "Interrupted: the program was ended during this call. It is not known whether the call was done."


@dataclass(frozen=True)
class Policy:
    """What a run may do by itself, and whether somebody is there to be asked."""

    rules: tuple[Rule, ...]
    default: Action
    interactive: bool
    """Wait for a person; else a question ends the run for now, or is a denial where `default` is deny."""
    session: str
    time_limit: float = 60.0


@dataclass(frozen=True)
class Ready:
    """A call that may run."""

    call: ToolCall
    tool: Tool
    arguments: Arguments
    again: bool = False
    """It was interrupted before, and its tool is idempotent."""


class Calls:
    """The calls of one run."""

    def __init__(
        self,
        run_id: str,
        toolset: Toolset,
        approvals: Approvals,
        store: RunStore,
        policy: Policy,
        emit: Emit,
    ) -> None:
        self._run_id = run_id
        self._toolset = toolset
        self._approvals = approvals
        self._store = store
        self._policy = policy
        self._emit = emit
        self._standing = Standing({}, {}, ())

    async def settle(self, calls: Sequence[ToolCall], watch: Stopwatch) -> list[Ready | ToolResult] | None:
        """For each call in order: ready to run, or its result without a run. None where a person must decide first.

        Questions are asked one after the other, so that "always in this session" answers the later ones; where nobody
        is there, all of them are saved at once.
        """
        self._standing = await self._look()
        settled = [await self._settle(call, watch) for call in calls]
        known = [one for one in settled if one is not None]
        return known if len(known) == len(settled) else None

    async def run(self, ready: Ready, watch: Stopwatch) -> ToolResult:
        """Run a call, journalled before and after. ApprovalFailed where it is not what was approved, or has run."""
        binding = Binding(canonical_hash(ready.arguments), ready.tool.definition_hash)
        await self._store.start(ready.call.id, binding, ready.again)
        with watch.tool():
            outcome = await self._outcome(ready)
        await self._store.finish(ready.call.id, outcome, watch.last_tool_seconds())
        return ToolResult(ready.call.id, outcome.status, outcome.text)

    async def _look(self) -> Standing:
        return await self._store.standing(self._run_id, self._policy.session)

    async def _settle(self, call: ToolCall, watch: Stopwatch) -> Ready | ToolResult | None:
        entry = self._standing.journal.get(call.id)
        if entry is not None and entry.outcome is not None:
            return ToolResult(call.id, entry.outcome.status, entry.outcome.text)
        tool = next((tool for tool in self._toolset.definitions() if tool.name == call.name), None)
        interrupted = entry is not None and entry.state in ("running", "interrupted")
        if interrupted and not (tool and tool.idempotent):
            return ToolResult(call.id, "interrupted", CUT_OFF)
        if tool is None:
            names = ", ".join(tool.name for tool in self._toolset.definitions()) or "none"
            return ToolResult(call.id, "error", f"Error: there is no tool {call.name}. The tools: {names}.")
        try:
            arguments = argument_check.parse(tool, call.arguments)
        except ToolFailed as error:
            return ToolResult(call.id, "error", f"Error: {error}")
        return await self._permitted(Ready(call, tool, arguments, again=interrupted), watch)

    async def _permitted(self, ready: Ready, watch: Stopwatch) -> Ready | ToolResult | None:
        request = self._standing.approvals.get(ready.call.id)
        if request is None:
            match self._action(ready.tool):
                case "allow":
                    return ready
                case "deny":
                    return _denied(ready.call, f"the rules do not allow {ready.call.name}.")
            request = await self._approvals.ask(self._run_id, ready.call.id, ready.tool, ready.arguments)
            self._saved(ApprovalRequested(request.id, ready.call.id))
        if request.state == "open":
            self._emit(RunEvent("approval", request.to_json()))
            if not self._policy.interactive:
                return None
            with watch.waiting():
                request = await self._approvals.wait(request.id)
            self._standing = await self._look()
            choice: Choice = "approve" if request.state == "approved" else "deny"
            self._saved(ApprovalDecided(request.id, ready.call.id, choice, request.scope, request.reason))
        return ready if request.state == "approved" else _denied(ready.call, request.reason)

    def _saved(self, item: Item) -> None:
        self._emit(RunEvent("item", to_json(item)))

    def _action(self, tool: Tool) -> Action:
        policy = self._policy
        action = decide(tool, policy.rules, self._standing.grants, policy.default)
        nobody = not policy.interactive and policy.default == "deny"
        return "deny" if action == "ask" and nobody else action

    async def _outcome(self, ready: Ready) -> Outcome:
        limit = min(self._policy.time_limit, ready.tool.time_limit or self._policy.time_limit)
        try:
            async with asyncio.timeout(limit) as deadline:
                return await self._toolset.call(ready.tool.name, ready.arguments)
        except TimeoutError:
            if deadline.expired():
                return Outcome("error", f"Error: the tool {ready.tool.name} took too long ({limit:g} s) and was ended.")
            return Outcome("error", f"Error: the tool {ready.tool.name} gave up waiting.")
        except Exception as error:  # noqa: BLE001 a tool is foreign code: the model is told, the run goes on
            _log.exception("the tool %s failed", ready.tool.name)
            return Outcome("error", f"Error: the tool {ready.tool.name} failed: {type(error).__name__}: {error}")


def _denied(call: ToolCall, reason: str) -> ToolResult:
    return ToolResult(call.id, "denied", f"Denied: {reason}" if reason else DENIED)
