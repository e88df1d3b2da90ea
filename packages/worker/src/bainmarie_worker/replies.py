"""OpenAI's shapes of an answer, whole and in pieces."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, Union

from bainmarie_worker.engine.engine import Spelling
from bainmarie_worker.reading import Chance, Outcome
from bainmarie_worker.tool_parsers import CallArguments, CallStart, Delta, Reasoning, Text

Json = dict[str, Any]


class ChatReply:
    """One choice of an answer of /v1/chat/completions. Feed it every delta; ask for chunks or for the whole choice."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._words: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Json] = []
        self._chances: list[Json] | None = None

    @staticmethod
    def head(model: str) -> Json:
        """What all chunks of one answer have in common; `whole` changes its `object`."""
        name = f"chatcmpl-{secrets.token_hex(12)}"
        return {"id": name, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

    def opening(self) -> Json | None:
        """The first chunk's choice: who speaks."""
        return self._choice({"role": "assistant", "content": ""})

    def add(self, delta: Delta, chances: Sequence[Chance] = ()) -> Json:
        """Notes the delta; returns its chunk's choice."""
        shown = [_chance(chance) for chance in chances]
        if shown:
            self._chances = [*(self._chances or []), *shown]
        choice = self._choice(self._delta(delta))
        if shown:
            choice["logprobs"] = {"content": shown, "refusal": None}
        return choice

    def closing(self, outcome: Outcome) -> Json:
        """The last chunk's choice."""
        return self._choice({}, outcome.finish_reason)

    def whole(self, outcome: Outcome) -> Json:
        """The choice in one piece. Content is null where there are calls and no words."""
        words = "".join(self._words)
        message: Json = {"role": "assistant", "content": words if words or not self._calls else None}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = self._calls
        chances = None if self._chances is None else {"content": self._chances, "refusal": None}
        return {"index": self._index, "message": message, "logprobs": chances, "finish_reason": outcome.finish_reason}

    def _delta(self, delta: Delta) -> Json:
        if isinstance(delta, Text):
            self._words.append(delta.text)
            return {"content": delta.text}
        if isinstance(delta, Reasoning):
            self._reasoning.append(delta.text)
            return {"reasoning_content": delta.text}
        if isinstance(delta, CallStart):
            function = {"name": delta.name, "arguments": ""}
            call = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
            self._calls.append(call)
            return {"tool_calls": [{"index": delta.index, **call, "function": dict(function)}]}
        assert isinstance(delta, CallArguments)
        self._calls[delta.index]["function"]["arguments"] += delta.text
        return {"tool_calls": [{"index": delta.index, "function": {"arguments": delta.text}}]}

    def _choice(self, delta: Json, finish_reason: str | None = None) -> Json:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


class CompletionReply:
    """One choice of an answer of /v1/completions; the same words as `ChatReply`."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._words: list[str] = []
        self._chances: list[Chance] = []

    @staticmethod
    def head(model: str) -> Json:
        name = f"cmpl-{secrets.token_hex(12)}"
        return {"id": name, "object": "text_completion", "created": int(time.time()), "model": model}

    def opening(self) -> Json | None:
        """Nothing is said before the first word."""
        return None

    def add(self, delta: Delta, chances: Sequence[Chance] = ()) -> Json:
        assert isinstance(delta, Text)
        choice = self._choice(delta.text, chances)
        self._words.append(delta.text)
        self._chances += chances
        return choice

    def closing(self, outcome: Outcome) -> Json:
        return self._choice("", (), outcome.finish_reason)

    def whole(self, outcome: Outcome) -> Json:
        words, self._words = "".join(self._words), []
        return self._choice(words, self._chances, outcome.finish_reason)

    def _choice(self, text: str, chances: Sequence[Chance], finish_reason: str | None = None) -> Json:
        logprobs = _completion_chances(chances, len("".join(self._words))) if chances else None
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


Reply = Union[ChatReply, CompletionReply]


def whole(head: Json, replies: Sequence[Reply], outcomes: Sequence[Outcome]) -> Json:
    """The answer in one piece."""
    choices = [reply.whole(outcome) for reply, outcome in zip(replies, outcomes)]
    return {**head, "object": head["object"].removesuffix(".chunk"), "choices": choices, "usage": usage(outcomes)}


def usage(outcomes: Sequence[Outcome]) -> Json:
    """The tokens of an answer: its prompt's once, those of all its choices."""
    prompt, completion = outcomes[0].prompt_tokens, sum(outcome.completion_tokens for outcome in outcomes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": outcomes[0].cached_tokens},
    }


def event(data: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _chance(chance: Chance) -> Json:
    likeliest = [_spelled(token, logprob) for token, logprob in chance.likeliest]
    return {**_spelled(chance.token, chance.logprob), "top_logprobs": likeliest}


def _spelled(token: Spelling, logprob: float) -> Json:
    return {"token": token.text, "logprob": logprob, "bytes": list(token.raw)}


def _completion_chances(chances: Sequence[Chance], offset: int) -> Json:
    """The older shape: lists side by side; `text_offset` counts characters from the answer's start."""
    offsets = []
    for chance in chances:
        offsets.append(offset)
        offset += len(chance.token.text)
    return {
        "tokens": [chance.token.text for chance in chances],
        "token_logprobs": [chance.logprob for chance in chances],
        "top_logprobs": [{token.text: logprob for token, logprob in chance.likeliest} for chance in chances],
        "text_offset": offsets,
    }
