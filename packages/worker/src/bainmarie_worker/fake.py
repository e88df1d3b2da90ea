"""An engine without a model and without torch: deterministic answers, and faults on demand.

Without a script it echoes the last user message (or the whole prompt of a completion). Its tokens are words, its chat
template is JSON, its tool calls are written the Hermes way: all that lies between engine and client is the real thing.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bainmarie_protocol import Progress, WorkerConfig
from bainmarie_worker.engine.engine import Report, Spelling, Tokenizer
from bainmarie_worker.engine.sequence import Adapter, Finish, Sequence, TokenStream
from bainmarie_worker.errors import LoadError

_CONTEXT = 32768
_LOAD_STEPS = 10
_CRASH = 70
"""Exit status of a crash on demand."""


@dataclass(frozen=True)
class FakeOptions:
    """`WorkerConfig.options` of the fake engine. Unknown keys are a TypeError: a test's typo must not pass."""

    load_seconds: float = 0.0
    token_seconds: float = 0.0
    batch: int = 1
    """Sequences at work at once."""
    fail_load: str = ""
    """The code of the LoadError that ends the load."""
    crash_at_load: bool = False
    crash_after_tokens: int | None = None
    """Tokens of the whole process, whoever asked for them."""
    script: tuple[dict[str, Any], ...] = ()
    """One answer for each assistant turn that the request has had so far; the last one repeats."""
    ignore_term: bool = False
    hang_load: bool = False


def load(config: WorkerConfig, report: Report) -> FakeRunner:
    """Pretends to load. Fails, hangs and crashes as the options say."""
    options = FakeOptions(**config.options)  # type: ignore[arg-type]
    report(Progress("config"))
    if options.hang_load:
        threading.Event().wait()
    if options.crash_at_load:
        _crash("while loading")
    for step in range(1, _LOAD_STEPS + 1):
        threading.Event().wait(options.load_seconds / _LOAD_STEPS)
        report(Progress("weights", step * 100, _LOAD_STEPS * 100, "bytes"))
    if options.fail_load:
        raise LoadError(options.fail_load, f"the fake engine was told to fail with {options.fail_load}", "Do not.")
    return FakeRunner(config, options)


@dataclass
class _Answer:
    ids: list[int]
    given: int = 0


class FakeRunner:
    """Implements `Runner`."""

    def __init__(self, config: WorkerConfig, options: FakeOptions) -> None:
        self.tokenizer: Tokenizer = FakeTokenizer()
        self.context: int | None = config.context or _CONTEXT
        self.defaults: dict[str, Any] = {}
        self.vocabulary: int | None = None
        self.info: dict[str, object] = {
            "engine": "fake",
            "device": "none",
            "dtype": "none",
            "context": self.context,
            "parameters": 0,
            "path": config.model,
        }
        self._options = options
        self._tokens = 0
        self._waiting: deque[TokenStream] = deque()
        self._answers: dict[TokenStream, _Answer] = {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._answers)

    @property
    def running(self) -> int:
        return len(self._answers)

    def submit(self, stream: TokenStream) -> None:
        self._waiting.append(stream)

    def uses(self, adapter: Adapter) -> bool:
        return any(stream.sequence.adapter == adapter for stream in (*self._answers, *self._waiting))

    def step(self) -> None:
        """One token for each of the sequences at work, of which there are at most `batch`."""
        while self._waiting and len(self._answers) < self._options.batch:
            stream = self._waiting.popleft()
            self._answers[stream] = self._start(stream.sequence)
        next(iter(self._answers)).cancelled.wait(self._options.token_seconds)
        for stream, answer in list(self._answers.items()):
            finish = Finish("cancelled", answer.given) if stream.cancelled.is_set() else self._advance(stream, answer)
            if finish is not None:
                del self._answers[stream]
                stream.put(finish)

    def tidy(self) -> bool:
        return False

    def _start(self, sequence: Sequence) -> _Answer:
        answer = self._answer(self.tokenizer.decode(list(sequence.prompt)))
        return _Answer(self.tokenizer.encode(answer, special=False))

    def _advance(self, stream: TokenStream, answer: _Answer) -> Finish | None:
        most = stream.sequence.max_tokens
        if answer.given < min(len(answer.ids), most):
            if self._tokens == self._options.crash_after_tokens:
                _crash(f"after {self._tokens} tokens")
            self._tokens += 1
            stream.put(answer.ids[answer.given])
            answer.given += 1
        if answer.given >= most:
            return Finish("length", most)
        return Finish("stop", answer.given + 1) if answer.given == len(answer.ids) else None

    def load_adapter(self, path: str, report: Report) -> None:
        report(Progress("adapter", detail=path))

    def unload_adapter(self, path: str) -> None:
        return None

    def _answer(self, prompt: str) -> str:
        chat = _read_chat(prompt)
        if chat is None:
            return prompt
        messages, tools = chat["messages"], chat["tools"]
        if not self._options.script:
            users = [message["content"] for message in messages if message["role"] == "user"]
            return users[-1] if users else ""
        turn = sum(message["role"] == "assistant" for message in messages)
        entry = self._options.script[min(turn, len(self._options.script) - 1)]
        calls = entry.get("tool_calls") or [] if tools else []
        thoughts = f"<think>\n{entry['reasoning']}\n</think>\n\n" if entry.get("reasoning") else ""
        return thoughts + "\n".join([*filter(None, [entry.get("content")]), *map(_written, calls)])


class FakeTokenizer:
    """Words with the white space before them; ids are given out as words appear."""

    template = "<tool_call> <think></think> {messages and tools as JSON}"
    ends: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        return json.dumps({"messages": messages, "tools": tools}, ensure_ascii=False)

    def warm(self) -> None:
        return None

    def encode(self, text: str, *, special: bool) -> list[int]:
        ids = []
        for word in re.findall(r"\s*\S+|\s+$", text):
            if word not in self._ids:
                self._ids[word] = len(self._words)
                self._words.append(word)
            ids.append(self._ids[word])
        return ids

    def is_boundary(self, text: str) -> bool:
        return False

    def decode(self, ids: list[int]) -> str:
        return "".join(self._words[token] for token in ids)

    def spell(self, token: int) -> Spelling:
        return Spelling(self._words[token], self._words[token].encode())


def _read_chat(prompt: str) -> dict[str, Any] | None:
    """What `render` wrote; None for a plain prompt."""
    try:
        data = json.loads(prompt)
    except ValueError:
        return None
    return data if isinstance(data, dict) and data.keys() == {"messages", "tools"} else None


def _written(call: dict[str, Any]) -> str:
    """A call as a model writes it. Arguments that are a string stand there as they are: so JSON gets broken."""
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(call["name"])}, "arguments": {text}}}\n</tool_call>'


def _crash(when: str) -> None:
    os.write(2, f"the fake engine was told to crash {when}\n".encode())
    os._exit(_CRASH)
