"""A model in a worker as a `Chat`: one streamed request for each turn, and one lease for the whole run."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from bainmarie.agent.chat import AssistantMessage, Chat, OnDelta, ProposedCall, Usage
from bainmarie.agent.history import ChatMessage
from bainmarie.errors import WorkerDied
from bainmarie.progress import Progress
from bainmarie_protocol import paths

if TYPE_CHECKING:
    from bainmarie.workers.client import WorkerClient
    from bainmarie.workers.supervisor import Supervisor

OnStatus = Callable[[dict[str, object]], None]
"""Takes a model's status, as /api/status has it, while it loads."""
GAP = 0.1
"""Seconds between two statuses of one load, at least."""


class Models(Protocol):
    """Where runs get their models."""

    def hold(
        self, model: str, sampling: Mapping[str, object], on_status: OnStatus
    ) -> AbstractAsyncContextManager[Chat]:
        """A ready model that is not unloaded while it is held. Errors as `Supervisor.lease`."""
        ...


class WorkerModels:
    """The supervisor's models."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @asynccontextmanager
    async def hold(self, model: str, sampling: Mapping[str, object], on_status: OnStatus) -> AsyncIterator[Chat]:
        last = 0.0

        def report(_: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= GAP:
                last = time.monotonic()
                on_status(self._supervisor.status_of(model).to_json())

        async with self._supervisor.lease(model, report) as lease:
            yield WorkerChat(lease.client, model, sampling)


class WorkerChat:
    """Chat with a leased worker."""

    def __init__(self, client: WorkerClient, model: str, sampling: Mapping[str, object]) -> None:
        self._client = client
        self._fixed = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **sampling}

    async def __call__(
        self, messages: Sequence[ChatMessage], tools: Sequence[dict[str, object]], on_delta: OnDelta
    ) -> AssistantMessage:
        """The worker's error as it is; WorkerDied where the stream breaks or ends without an end."""
        from bainmarie.workers.client import error_of

        body = {**self._fixed, "messages": list(messages), **({"tools": list(tools)} if tools else {})}
        headers = {"Content-Type": "application/json"}
        async with self._client.request("POST", paths.CHAT, json.dumps(body).encode(), headers) as response:
            if response.status != 200:
                raise error_of(response.status, await response.read())
            reply = _Reply(on_delta)
            async for line in _lines(response):
                reply.feed(line)
        return reply.message()


class _Reply:
    """A streamed answer put together."""

    def __init__(self, on_delta: OnDelta) -> None:
        self._on_delta = on_delta
        self._words: list[str] = []
        self._reasoning: list[str] = []
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}
        self._usage = Usage()
        self._finish_reason = ""

    def feed(self, line: bytes) -> None:
        """Take one line of the stream; comments, event names and the [DONE] say nothing new."""
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            return
        chunk = json.loads(data)
        if error := chunk.get("error"):
            raise WorkerDied(str(error.get("message")), code=str(error.get("code") or ""), hint=error.get("hint") or "")
        if usage := chunk.get("usage"):
            self._usage = Usage(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        for choice in chunk.get("choices", ())[:1]:
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            self._delta(choice.get("delta") or {})

    def message(self) -> AssistantMessage:
        """The whole. WorkerDied where the end did not come: half an answer must not pass for one."""
        if not self._finish_reason:
            raise WorkerDied("the worker's answer ended in the middle", hint="The next request starts it again.")
        calls = tuple(
            ProposedCall(self._names[index], "".join(self._arguments[index])) for index in sorted(self._names)
        )
        return AssistantMessage(
            "".join(self._words), calls, self._usage, self._finish_reason, reasoning="".join(self._reasoning)
        )

    def _delta(self, delta: Mapping[str, Any]) -> None:
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            self._reasoning.append(thought)
            self._on_delta(thought, reasoning=True)
        if text := delta.get("content"):
            self._words.append(text)
            self._on_delta(text)
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            index = call.get("index", 0)
            self._names[index] = self._names.get(index, "") + (function.get("name") or "")
            self._arguments.setdefault(index, []).append(function.get("arguments") or "")


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
    if rest:
        yield rest
