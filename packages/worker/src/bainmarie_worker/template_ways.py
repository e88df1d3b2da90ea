"""What chat templates want of messages where they differ: the name of reasoning, ids, calls, arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from bainmarie_worker.tool_parsers import format_of, harmony, kimi

Messages = list[dict[str, Any]]
_NO_CONTENT = re.compile(r"content(?:'\]|\"\])? is (?:not )?none")
_NINE = re.compile(r"length\s*!=\s*9")


def fitted(messages: Messages, template: str) -> Messages:
    """The messages as this template reads them. The same messages always become the same."""
    key = "reasoning_content"
    if key not in template and re.search(r"message(?:\.thinking|\[.thinking.\])", template):
        key = "thinking"
    fitted = [_renamed(message, key) for message in messages]
    if _NO_CONTENT.search(template):
        fitted = [_without_content(message) for message in fitted]
    if "tool_calls" not in template:
        fitted = [_with_calls_in_content(message, template) for message in fitted]
    if harmony.fits(template):
        fitted = [_one_analysis(message) for message in fitted]
    if kimi.fits(template):
        return _with_ids(fitted, lambda number, name: f"functions.{name}:{number}")
    if _NINE.search(template):
        return _with_ids(fitted, lambda number, name: f"{number:09d}")
    return fitted


def with_text_arguments(messages: Messages) -> Messages:
    """The arguments of calls as JSON text, for templates that join them to other text."""
    return [_with_calls(message, _text_arguments) if message.get("tool_calls") else message for message in messages]


def _text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def _renamed(message: dict[str, Any], key: str) -> dict[str, Any]:
    if key == "reasoning_content" or "reasoning_content" not in message:
        return message
    return {key if name == "reasoning_content" else name: value for name, value in message.items()}


def _without_content(message: dict[str, Any]) -> dict[str, Any]:
    """DeepSeek's older templates show calls where there is no content, not even an empty one."""
    return {**message, "content": None} if message.get("tool_calls") and not message["content"] else message


def _with_calls_in_content(message: dict[str, Any], template: str) -> dict[str, Any]:
    """The calls as the model wrote them, for templates that would leave them out."""
    written = getattr(format_of(template), "written", None)
    if not message.get("tool_calls") or written is None:
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    calls = written([(function["name"], function["arguments"]) for function in functions])
    return {**message, "content": "\n".join(filter(None, [message["content"], calls]))}


def _one_analysis(message: dict[str, Any]) -> dict[str, Any]:
    """gpt-oss's template takes one text beside a call."""
    if not message.get("tool_calls") or not message.get("thinking") or not message["content"]:
        return message
    return {**message, "thinking": f"{message['thinking']}\n{message['content']}", "content": ""}


def _with_ids(messages: Messages, make: Callable[[int, str], str]) -> Messages:
    """Every call gets the id that `make` gives it by its number, its result the same."""
    known: dict[str, str] = {}
    numbers = iter(range(10**9))

    def renumbered(call: dict[str, Any]) -> dict[str, Any]:
        known[call["id"]] = make(next(numbers), call["function"]["name"])
        return {**call, "id": known[call["id"]]}

    fitted = []
    for message in messages:
        if message.get("tool_calls"):
            message = _with_calls(message, renumbered)
        elif "tool_call_id" in message:
            message = {**message, "tool_call_id": known.get(message["tool_call_id"], message["tool_call_id"])}
        fitted.append(message)
    return fitted


def _with_calls(message: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    return {**message, "tool_calls": [change(call) for call in message["tool_calls"]]}
