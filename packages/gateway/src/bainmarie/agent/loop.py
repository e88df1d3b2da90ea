"""The tool loop: generate, save, decide, run, save, until the model has nothing more to call.

Its state is the saved items: a loop over a run that was cut off answers the open calls first and goes on. It knows
neither who asks for the run nor how the model is reached.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bainmarie.agent import history
from bainmarie.agent.calls import Calls, Ready
from bainmarie.agent.chat import AssistantMessage, Chat
from bainmarie.agent.events import Emit, RunEvent
from bainmarie.agent.items import Item, Message, Reasoning, ToolCall, ToolResult, to_json
from bainmarie.agent.timings import Stopwatch, Timing
from bainmarie.agent.tools.tool import Toolset
from bainmarie.store.runs import RunStore

PARALLEL = 8
"""Calls of one turn that run at the same time."""
NOTHING_RUN = "No tool call was allowed, so nothing was done."
"""The text of a run whose last calls were all denied, where the model wrote none with them."""
NO_ANSWER = "The run ended at its limit of iterations, without an answer."


@dataclass(frozen=True)
class Ending:
    """How a run ended by itself. `requires_action` waits for a person and goes on when it is resumed."""

    status: Literal["completed", "all_denied", "max_iterations", "requires_action"]
    text: str = ""


class Loop:
    """One run, from wherever it stands. Never two at once for the same one.

    `timings` gets one entry for each iteration, also for one that is cut off.
    """

    def __init__(
        self,
        run_id: str,
        chat: Chat,
        toolset: Toolset,
        calls: Calls,
        store: RunStore,
        emit: Emit,
        max_iterations: int,
        timings: list[Timing],
    ) -> None:
        self._run_id = run_id
        self._chat = chat
        self._toolset = toolset
        self._calls = calls
        self._store = store
        self._emit = emit
        self._max_iterations = max_iterations
        self._timings = timings

    async def run(self) -> Ending:
        """Go on until the run ends. When cancelled, calls that were running are journalled as interrupted."""
        items = await self._store.items(self._run_id)
        try:
            while True:
                ending = ended(items, self._max_iterations) or await self.step(items)
                if ending is not None:
                    return ending
        except BaseException:
            await asyncio.shield(self._store.interrupt(self._run_id))
            raise

    async def step(self, items: list[Item]) -> Ending | None:
        """One iteration: the model has its turn, unless calls are open; then these are answered.

        `items` are all that is saved; what is saved here is added to them. None where the run goes on.
        """
        watch = Stopwatch()
        try:
            if not history.unanswered(items):
                items += await self._turn(items, watch)
            if not (asked := history.unanswered(items)):
                return None
            settled = await self._calls.settle(asked, watch)
            if settled is None:
                return Ending("requires_action", _text(items))
            items += await self._answer(settled, watch)
            return None
        finally:
            self._timings.append(watch.timing(_iteration(items)))

    async def _turn(self, items: Sequence[Item], watch: Stopwatch) -> list[Item]:
        """The model's next turn, saved. The turn past the limit is asked for without tools, and gets no calls."""
        iteration = _iteration(items) + 1
        tools = [tool.definition for tool in self._toolset.definitions()] if iteration <= self._max_iterations else []
        began = time.perf_counter()
        message = await self._chat(history.render(items), tools, self._delta)
        watch.model = message.seconds if message.seconds is not None else time.perf_counter() - began
        turn = _saved(message, iteration, with_calls=bool(tools))
        await self._store.append(self._run_id, *turn)
        for item in turn:
            self._tell(item)
        return turn

    async def _answer(self, settled: Sequence[Ready | ToolResult], watch: Stopwatch) -> list[ToolResult]:
        """Run what may run, side by side; each result is saved once, in call order."""
        limit = asyncio.Semaphore(PARALLEL)
        running = {
            call.call.id: asyncio.create_task(self._run(call, limit, watch))
            for call in settled
            if isinstance(call, Ready)
        }
        results = []
        try:
            for call in settled:
                result = await running[call.call.id] if isinstance(call, Ready) else call
                await self._store.append(self._run_id, result)
                self._tell(result)
                results.append(result)
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)
        return results

    async def _run(self, call: Ready, limit: asyncio.Semaphore, watch: Stopwatch) -> ToolResult:
        async with limit:
            return await self._calls.run(call, watch)

    def _delta(self, text: str, *, reasoning: bool = False) -> None:
        self._emit(RunEvent("delta", {"reasoning" if reasoning else "text": text}))

    def _tell(self, item: Item) -> None:
        self._emit(RunEvent("item", to_json(item)))


def ended(items: Sequence[Item], max_iterations: int) -> Ending | None:
    """How the run has ended by what is saved, None where it goes on: also asked after a crash."""
    message, results = history.last_turn(items)
    if message is None or history.unanswered(items):
        return None
    if message.iteration > max_iterations:
        return Ending("max_iterations", message.text or NO_ANSWER)
    if not results:
        return Ending("completed", message.text)
    if all(result.status == "denied" for result in results):
        return Ending("all_denied", message.text or NOTHING_RUN)
    return None


def _iteration(items: Sequence[Item]) -> int:
    message, _ = history.last_turn(items)
    return message.iteration if message else 0


def _text(items: Sequence[Item]) -> str:
    message, _ = history.last_turn(items)
    return message.text if message else ""


def _saved(message: AssistantMessage, iteration: int, with_calls: bool) -> list[Item]:
    """The turn as items; each call gets an id of ours, since models give the same one again."""
    calls = message.tool_calls if with_calls else ()
    return [
        *([Reasoning(message.reasoning, iteration)] if message.reasoning else []),
        Message("assistant", message.text, iteration),
        *(ToolCall(f"call_{uuid.uuid4().hex[:16]}", call.name, call.arguments, iteration) for call in calls),
    ]
