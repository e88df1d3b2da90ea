"""The prompt, and the log that callers read, as pure functions of the saved items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TypedDict

from bainmarie.agent.items import Item, Message, Reasoning, ToolCall, ToolResult


class Function(TypedDict):
    name: str
    arguments: str


class CallShape(TypedDict):
    id: str
    type: str
    function: Function


class ChatMessage(TypedDict, total=False):
    """One message as OpenAI's chat completions take it."""

    role: str
    content: str
    reasoning_content: str
    tool_calls: list[CallShape]
    tool_call_id: str
    name: str


class LogEntry(TypedDict, total=False):
    """One call of a run: `result` where it succeeded, else `error`."""

    tool: str
    args: object
    status: str
    result: str
    error: str
    iteration: int


def render(items: Iterable[Item]) -> list[ChatMessage]:
    """The chat messages of a conversation: every text once, and after a turn's calls their results in call order.

    Reasoning goes back to the model as long as it works on the same question: with the messages behind the user's last.
    ValueError where a call has no result, or two, or belongs to no assistant message: such a history must not be sent.
    """
    items = list(items)
    results = _results(items)
    chat: list[ChatMessage] = []
    pending: list[ToolCall] = []
    question = max((place for place, item in enumerate(items) if _asks(item)), default=-1)
    thoughts = ""
    for place, item in enumerate(items):
        if isinstance(item, Message):
            chat += _answers(pending, results)
            pending = []
            chat.append({"role": item.role, "content": item.text})
            if thoughts and item.role == "assistant":
                chat[-1]["reasoning_content"] = thoughts
            thoughts = ""
        elif isinstance(item, Reasoning):
            thoughts = item.text if place > question else ""
        elif isinstance(item, ToolCall):
            if not chat or chat[-1]["role"] != "assistant":
                raise ValueError(f"call {item.id} follows no assistant message")
            chat[-1].setdefault("tool_calls", []).append(_shape(item))
            pending.append(item)
    chat += _answers(pending, results)
    if results:
        raise ValueError(f"result of a call that is not there: {sorted(results)}")
    return chat


def unanswered(items: Sequence[Item]) -> list[ToolCall]:
    """The calls without a result, in call order."""
    answered = {item.call_id for item in items if isinstance(item, ToolResult)}
    return [item for item in items if isinstance(item, ToolCall) and item.id not in answered]


def last_turn(items: Sequence[Item]) -> tuple[Message | None, list[ToolResult]]:
    """The model's latest message of this run and the results of its calls; None before it has said anything."""
    message: Message | None = None
    results: list[ToolResult] = []
    for item in items:
        if isinstance(item, Message) and item.iteration > 0:
            message, results = item, []
        elif isinstance(item, ToolResult):
            results.append(item)
    return message, results


def log(items: Iterable[Item]) -> list[LogEntry]:
    """One entry for each answered call of this run, in call order; calls of the messages given to it are left out."""
    items = list(items)
    results = _results(items)
    calls = [i for i in items if isinstance(i, ToolCall) and i.iteration > 0 and i.id in results]
    return [_entry(call, results[call.id]) for call in calls]


def _asks(item: Item) -> bool:
    return isinstance(item, Message) and item.role == "user"


def _results(items: Iterable[Item]) -> dict[str, ToolResult]:
    results: dict[str, ToolResult] = {}
    for item in items:
        if isinstance(item, ToolResult):
            if item.call_id in results:
                raise ValueError(f"call {item.call_id} has two results")
            results[item.call_id] = item
    return results


def _answers(calls: Iterable[ToolCall], results: dict[str, ToolResult]) -> list[ChatMessage]:
    answers: list[ChatMessage] = []
    for call in calls:
        result = results.pop(call.id, None)
        if result is None:
            raise ValueError(f"call {call.id} has no result")
        answers.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": result.text})
    return answers


def _shape(call: ToolCall) -> CallShape:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _sendable(call.arguments)}}


def _sendable(arguments: str) -> str:
    """The arguments as they were, or wrapped: chat templates parse them, and one bad call must not spoil every turn."""
    if isinstance(_parsed(arguments), dict):
        return arguments
    return json.dumps({"invalid": arguments}, ensure_ascii=False)


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _entry(call: ToolCall, result: ToolResult) -> LogEntry:
    status = "error" if result.status == "interrupted" else result.status
    entry: LogEntry = {"tool": call.name, "args": _parsed(call.arguments), "status": status}
    entry["result" if status == "success" else "error"] = result.text
    entry["iteration"] = call.iteration
    return entry
