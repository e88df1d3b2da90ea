"""Chat messages as OpenAI clients send them, turned into what chat templates take."""

from __future__ import annotations

import json
from typing import Any

from bainmarie_worker.errors import RequestError

_ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(value: Any) -> tuple[dict[str, Any], ...]:
    """RequestError 400 names the message and field that is off. `developer` becomes `system`, its older name."""
    if not isinstance(value, list) or not value:
        raise _bad("messages", "must be a list with at least one message")
    return tuple(_message(message, f"messages.{place}") for place, message in enumerate(value))


def plain_text(messages: tuple[dict[str, Any], ...]) -> str:
    """The rule of `prompt: plain`: the texts of all messages in their order, joined by one line break, nothing else."""
    return "\n".join(message["content"] for message in messages if message.get("content"))


def _message(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(place, "must be an object")
    role = value.get("role")
    if role not in _ROLES:
        raise _bad(f"{place}.role", f"must be one of {', '.join(_ROLES)}")
    message: dict[str, Any] = {
        "role": "system" if role == "developer" else role,
        "content": _content(value.get("content"), f"{place}.content"),
    }
    if role == "assistant" and value.get("tool_calls"):
        message["tool_calls"] = _calls(value["tool_calls"], f"{place}.tool_calls")
    elif value.get("content") is None and role != "assistant":
        raise _bad(f"{place}.content", "is missing")
    for name in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(value.get(name), str):
            message[name] = value[name]
    if isinstance(value.get("reasoning"), str):  # as some servers and clients call it
        message.setdefault("reasoning_content", value["reasoning"])
    return message


def _content(value: Any, place: str) -> str:
    """A string; text parts are joined as they are."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _bad(place, "must be a string or a list of text parts")
    texts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(
                400,
                f"{place}.{number}: only text parts are supported, not {kind or type(part).__name__}",
                code="unsupported",
                param=f"{place}.{number}",
            )
        texts.append(part["text"])
    return "".join(texts)


def _calls(value: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _bad(place, "must be a list")
    calls = []
    for number, call in enumerate(value):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _bad(f"{place}.{number}.function", "must be an object with a name")
        calls.append(
            {
                "id": str(call.get("id", "")),
                "type": "function",
                "function": {"name": function["name"], "arguments": _arguments(function.get("arguments"))},
            }
        )
    return calls


def _arguments(value: Any) -> Any:
    """Templates want an object; what the model once wrote and is no JSON object stays the text it was."""
    if value is None or value == "":
        return {}
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, dict) else value


def _bad(param: str, what: str) -> RequestError:
    return RequestError(400, f"{param} {what}", code="invalid_value", param=param)
