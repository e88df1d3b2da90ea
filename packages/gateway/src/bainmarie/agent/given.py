"""The messages that a caller starts a run with, in OpenAI's shape, as items."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from bainmarie.agent.items import Item, Message, Reasoning, ToolCall, ToolResult
from bainmarie.errors import BadRequest

NOT_ANSWERED = "Interrupted: nothing is known of this call."


def items_from(messages: object) -> tuple[Item, ...]:
    """The items of a conversation so far; a call that it gives no result for is answered as interrupted.

    BadRequest names the message that is off. Call ids become ours: callers give the same ones again.
    """
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a list of messages, not empty", param="messages")
    reading = _Reading()
    for number, message in enumerate(messages):
        reading.message(message, f"messages[{number}]")
    if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        raise BadRequest("the last message is the assistant's: there is nothing to answer", param="messages")
    return reading.whole()


class _Reading:
    def __init__(self) -> None:
        self._items: list[Item] = []
        self._open: dict[str, str] = {}
        """The caller's ids of calls without a result, to ours."""

    def message(self, message: object, where: str) -> None:
        if not isinstance(message, dict):
            raise BadRequest(f"{where} must be an object", param=where)
        match message.get("role"):
            case "system" | "developer":
                self._said(Message("system", _text(message, where)))
            case "user":
                self._said(Message("user", _text(message, where)))
            case "assistant":
                self._answer_open()
                if isinstance(thoughts := message.get("reasoning_content"), str) and thoughts:
                    self._items.append(Reasoning(thoughts))
                self._said(Message("assistant", _text(message, where)))
                for number, call in enumerate(message.get("tool_calls") or ()):
                    self._call(call, f"{where}.tool_calls[{number}]")
            case "tool":
                self._result(message, where)
            case role:
                raise BadRequest(f"{where} has no known role: {role!r}", param=f"{where}.role")

    def whole(self) -> tuple[Item, ...]:
        self._answer_open()
        return tuple(self._items)

    def _said(self, message: Message) -> None:
        self._answer_open()
        self._items.append(message)

    def _call(self, call: Any, where: str) -> None:
        try:
            given, name, arguments = call["id"], call["function"]["name"], call["function"].get("arguments", "{}")
        except (KeyError, TypeError, AttributeError) as error:
            raise BadRequest(f"{where} must have an id and a function with a name", param=where) from error
        own = f"call_{uuid.uuid4().hex[:16]}"
        self._open[str(given)] = own
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        self._items.append(ToolCall(own, str(name), text))

    def _result(self, message: Mapping[str, Any], where: str) -> None:
        own = self._open.pop(str(message.get("tool_call_id")), None)
        if own is None:
            raise BadRequest(
                f"{where} answers a call that is not open: {message.get('tool_call_id')!r}",
                param=f"{where}.tool_call_id",
            )
        self._items.append(ToolResult(own, "success", _text(message, where)))

    def _answer_open(self) -> None:
        self._items += [ToolResult(own, "interrupted", NOT_ANSWERED) for own in self._open.values()]
        self._open = {}


def _text(message: Mapping[str, Any], where: str) -> str:
    """A message's text; of several parts, all of them, which must be text."""
    content = message.get("content")
    if content is None and message.get("role") == "assistant":
        return ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise BadRequest(f"{where}.content must be text", param=f"{where}.content")
    return "".join(str(text) for text in texts)
