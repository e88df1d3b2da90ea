"""The engine: one thread that owns the model, and a bounded queue in front of it.

Everything that touches the model happens on that thread: the load, the adapters, every forward pass. The event loop
only submits and listens. Between two steps of the runner the thread takes what has come in meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bainmarie_protocol import Progress
from bainmarie_worker.engine.sequence import Adapter, Sequence, TokenStream
from bainmarie_worker.errors import LoadError, RequestError
from bainmarie_worker.interpreter import interpreter_info

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Spelling:
    """One token by itself. A part of a character is shown as its bytes, as OpenAI does: `bytes:\\xe2\\x82`."""

    text: str
    raw: bytes


class Tokenizer(Protocol):
    """Between text and token ids. Used on the event loop only."""

    template: str
    """The chat template's source; empty where the model has none."""
    ends: frozenset[int]
    """Its end token, and those of its template's format: an answer ends there, whatever the base model says."""

    def render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, settings: Mapping[str, Any] = ...
    ) -> str: ...
    def encode(self, text: str, *, special: bool) -> list[int]: ...
    def is_boundary(self, text: str) -> bool: ...
    def decode(self, ids: list[int]) -> str: ...
    def spell(self, token: int) -> Spelling: ...
    def warm(self) -> None: ...


class Runner(Protocol):
    """A loaded model. All methods are called on the engine's thread; `tokenizer` belongs to the event loop."""

    tokenizer: Tokenizer
    context: int | None
    """Tokens of prompt and answer together; None: no limit known."""
    defaults: dict[str, Any]
    """Sampling settings that the checkpoint wishes for, by the names of `Sampling`."""
    info: dict[str, object]
    vocabulary: int | None
    """Tokens that the model gives a logit each; None: not known."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do in `step`."""

    @property
    def running(self) -> int:
        """Sequences at work, those that wait not counted."""

    def submit(self, stream: TokenStream) -> None:
        """Takes a sequence. Steps put its tokens, and at last its `Finish` or error, into the stream."""

    def step(self) -> None:
        """Moves all running sequences on, by a token or a part of their prompts; drops cancelled ones first.

        An error of one sequence goes into its stream. What is raised is a defect and fails all.
        """

    def tidy(self) -> bool:
        """A little work that can wait, a few milliseconds of it. False when there is none left."""

    def uses(self, adapter: Adapter) -> bool:
        """Whether a sequence that has not ended needs the adapter."""

    def load_adapter(self, path: str, report: Report) -> None: ...
    def unload_adapter(self, path: str) -> None: ...


Job = Callable[[Runner, Report], None]

_PIECES = 200
"""A second, of all answers together. Each costs worker, gateway and client about a millisecond of processor, which a
forward pass on the same cores has to wait for."""

DEFECT = 71
"""Exit status when a step has raised."""


@dataclass(frozen=True)
class Counters:
    """What GET /info adds to the model's own info."""

    loads: int
    requests: int
    running: int
    queued: int


class Engine:
    """Owns the thread. `submit` and `call` raise RequestError 503 `loading` until the load has ended."""

    def __init__(self, load: Callable[[Report], Runner], *, queue_limit: int) -> None:
        self._load = load
        self._jobs: queue.SimpleQueue[Callable[[Runner], None]] = queue.SimpleQueue()
        self._limit = queue_limit
        self._open: set[TokenStream] = set()
        self._runner: Runner | None = None
        self._loads = 0
        self._requests = 0
        self._report: Report = lambda step: None
        self._put_off: list[Callable[[Runner], None]] = []

    def start(self, report: Report, on_ready: Callable[[], None], on_failed: Callable[[LoadError], None]) -> None:
        """Starts the load on the engine's thread; one of the two callbacks is called there when it has ended."""
        self._report = report

        def run() -> None:
            try:
                runner = self._load(report)
            except LoadError as error:
                traceback.print_exc(file=sys.stderr)
                on_failed(error)
                return
            except Exception as error:  # noqa: BLE001 - reported, and the process ends
                traceback.print_exc(file=sys.stderr)
                on_failed(LoadError("load_failed", f"{type(error).__name__}: {error}", "The log has the whole trace."))
                return
            self._loads += 1
            self._runner = runner
            on_ready()
            self._work(runner)

        threading.Thread(target=run, name="engine", daemon=True).start()

    @property
    def runner(self) -> Runner:
        """The loaded model, for its tokenizer and limits. RequestError while it loads."""
        if self._runner is None:
            raise RequestError(503, "the model is loading", code="loading", hint="Try again in a moment.")
        return self._runner

    @property
    def info(self) -> dict[str, object]:
        """Interpreter and packages at any time; what the model is once it is loaded; the counters."""
        return {**interpreter_info(), **(self._runner.info if self._runner else {}), **asdict(self.counters)}

    @property
    def counters(self) -> Counters:
        running = self._runner.running if self._runner is not None else 0
        return Counters(self._loads, self._requests, running, max(len(self._open) - running, 0))

    def submit(self, sequence: Sequence) -> TokenStream:
        """Queues the sequence. RequestError 503 when `queue_limit` others wait already."""
        assert self.runner
        if self.counters.queued >= self._limit:
            raise RequestError(
                503, f"{self._limit} requests wait already", code="queue_full", hint="Try again in a moment."
            )
        stream = TokenStream(sequence, self._open.discard, self._pace)
        self._requests += 1
        self._open.add(stream)
        self._jobs.put(lambda runner: runner.submit(stream))
        return stream

    async def call(self, job: Job, unless: Callable[[Runner], bool] = lambda runner: False) -> None:
        """Runs `job` on the engine's thread between two steps, and raises what it raises.

        It is put off as long as `unless` is true.
        """
        assert self.runner
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run(runner: Runner) -> None:
            if unless(runner):
                self._put_off.append(run)
                return
            error: BaseException | None = None
            try:
                job(runner, self._report)
            except Exception as raised:  # noqa: BLE001 - handed to the caller
                error = raised
            loop.call_soon_threadsafe(settle, error)

        self._jobs.put(run)
        await done

    def close(self) -> None:
        """Cancels everything that runs or waits."""
        for stream in self._open:
            stream.cancel()

    def _pace(self) -> float:
        """Seconds between two pieces of an answer: none for one alone, and for many what all together may send."""
        running = self.counters.running
        return running / _PIECES if running > 1 else 0.0

    def _work(self, runner: Runner) -> None:
        """Never returns. A defect in a step ends the process: what state the runner is in, nobody knows."""
        while True:
            try:
                self._idle(runner)
                runner.step()
                runner.tidy()
            except BaseException:  # noqa: BLE001 - nothing else may run after it
                traceback.print_exc(file=sys.stderr)
                os._exit(DEFECT)
            for job in self._put_off:
                self._jobs.put(job)
            self._put_off.clear()

    def _idle(self, runner: Runner) -> None:
        """Does what has come in; returns when there is something to step for."""
        while not runner.busy or not self._jobs.empty():
            if self._jobs.empty() and runner.tidy():
                continue
            self._jobs.get()(runner)
