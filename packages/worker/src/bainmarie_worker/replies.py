"""OpenAI's shapes of an answer, whole and in pieces."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from bainmarie_worker.reading import Outcome
from bainmarie_worker.tool_parsers import CallArguments, CallStart, Delta, Text

Json = dict[str, Any]


class ChatReply:
    """One answer of /v1/chat/completions. Feed it every delta; ask for chunks as they come or for the whole."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._words: list[str] = []
        self._calls: list[Json] = []

    def opening(self) -> Json:
        """The first chunk: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def add(self, delta: Delta) -> Json:
        """Notes the delta; returns its chunk."""
        if isinstance(delta, Text):
            self._words.append(delta.text)
            return self._chunk({"content": delta.text})
        if isinstance(delta, CallStart):
            function = {"name": delta.name, "arguments": ""}
            call = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
            self._calls.append(call)
            return self._chunk({"tool_calls": [{"index": delta.index, **call, "function": dict(function)}]})
        assert isinstance(delta, CallArguments)
        self._calls[delta.index]["function"]["arguments"] += delta.text
        return self._chunk({"tool_calls": [{"index": delta.index, "function": {"arguments": delta.text}}]})

    def closing(self, outcome: Outcome) -> Json:
        """The last chunk with a choice."""
        return self._chunk({}, outcome.finish_reason)

    def usage(self, outcome: Outcome) -> Json:
        """The chunk after it, for those who asked for one."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(outcome)}

    def whole(self, outcome: Outcome) -> Json:
        """The answer in one piece. Content is null where there are calls and no words."""
        words = "".join(self._words)
        message: Json = {"role": "assistant", "content": words if words or not self._calls else None}
        if self._calls:
            message["tool_calls"] = self._calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": outcome.finish_reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(outcome)}

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


class CompletionReply:
    """One answer of /v1/completions; the same words as `ChatReply`."""

    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._words: list[str] = []

    def opening(self) -> None:
        """Nothing is said before the first word."""

    def add(self, delta: Delta) -> Json:
        assert isinstance(delta, Text)
        self._words.append(delta.text)
        return self._chunk(delta.text)

    def closing(self, outcome: Outcome) -> Json:
        return self._chunk("", outcome.finish_reason)

    def usage(self, outcome: Outcome) -> Json:
        return {**self._head, "choices": [], "usage": _usage(outcome)}

    def whole(self, outcome: Outcome) -> Json:
        return {**self._chunk("".join(self._words), outcome.finish_reason), "usage": _usage(outcome)}

    def _chunk(self, text: str, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice]}


def event(data: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _usage(outcome: Outcome) -> Json:
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": outcome.cached_tokens},
    }
