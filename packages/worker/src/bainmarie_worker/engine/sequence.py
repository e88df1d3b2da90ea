"""One prompt on its way to an answer: what shall be generated, and the stream of tokens it becomes."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional, Union


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 takes the most likely one; then only the penalties count."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and answer, as Hugging Face has it; 1 is none."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Both over the answer alone, as OpenAI has them; 0 is none."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, added to its logit)."""
    seed: int | None = None
    """The same seed, prompt and model give the same answer, whatever is in the batch. None: another one each time."""


@dataclass(frozen=True)
class Sequence:
    """What the engine needs to know of a request."""

    prompt: tuple[int, ...]
    """Token ids; at least one."""
    max_tokens: int
    """Tokens to generate at most, the end token included; at least one."""
    sampling: Sampling = field(default_factory=Sampling)
    adapter: str | None = None
    """Directory of the adapter; None is the base model alone."""
    ignore_eos: bool = False
    """Go on behind the end token, which then is a token like any other (for benchmarks)."""
    ends: frozenset[int] = frozenset()
    """Tokens that end this answer beside the model's own end tokens."""
    logprobs: int | None = None
    """So many of the likeliest tokens are told beside each drawn one; None: no probabilities at all."""


@dataclass(frozen=True)
class Drawn:
    """A token with its natural log probability and those of the likeliest ones, before temperature and the like."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


Token = Union[int, Drawn]


@dataclass(frozen=True)
class Finish:
    """How a sequence ended."""

    reason: str
    """`stop`: the model said so. `length`: max_tokens or the context is used up. `cancelled`: nobody listens."""
    generated: int = 0
    """Tokens drawn, the end token included."""
    cached: int = 0
    """Prompt tokens that needed no computing because an earlier sequence had left them."""


_Item = Union[int, Drawn, Finish, BaseException]


class TokenStream:
    """The tokens of one sequence as they come: written by the engine's thread, read on one event loop.

    `async for` gives lists of what has come since (`Drawn` where probabilities were asked for), at least one token
    each, without the end token; `finish` is set with the last of them, or after it. An error of the engine is raised
    there.
    """

    def __init__(
        self,
        sequence: Sequence,
        on_end: Callable[[TokenStream], None] = lambda stream: None,
        pace: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`on_end` is called on the event loop once the last item has come, read or not.

        Between two lists pass `pace()` seconds at least, but for the last.
        """
        self.sequence = sequence
        self.finish: Finish | None = None
        self.cancelled = threading.Event()
        """For the engine: stop within one step."""
        self._on_end = on_end
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._items: deque[_Item] = deque()
        self._fresh = asyncio.Event()
        self._waking = False
        self._resting = False
        self._ended = False
        self._given: float | None = None
        """When the last list was, in the loop's time."""

    def cancel(self) -> None:
        """Frees the engine within one step. Harmless when the sequence has ended."""
        self.cancelled.set()

    def put(self, item: _Item) -> None:
        """From any thread. Items that come faster than they are read cost one wake-up together."""
        if not isinstance(item, (int, Drawn)):
            self._ended = True
            self._loop.call_soon_threadsafe(self._on_end, self)
        self._items.append(item)
        if not self._waking and (self._ended or not self._resting):
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    async def started(self) -> None:
        """True on return: the first token or the end is there. Raises the engine's error if that came first."""
        await self._come()
        first = self._items[0]
        if isinstance(first, BaseException):
            raise first

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> list[Token]:
        if self.finish is not None:
            raise StopAsyncIteration
        await self._rest()
        await self._come()
        self._given = self._loop.time()
        tokens: list[Token] = []
        while self._items and isinstance(self._items[0], (int, Drawn)):
            tokens.append(self._items.popleft())  # type: ignore[arg-type]
        if self._items and isinstance(self._items[0], Finish):
            self.finish = self._items[0]
        if tokens:
            return tokens
        if self.finish is not None:
            raise StopAsyncIteration
        error = self._items.popleft()
        assert isinstance(error, BaseException)
        raise error

    async def drain(self) -> Finish:
        """Cancels and waits for the end, which comes within one step. Tokens that still came are dropped."""
        self.cancel()
        async for _ in self:
            pass
        assert self.finish is not None
        return self.finish

    async def _come(self) -> None:
        """Returns when there is something to read."""
        while not self._items:
            self._fresh.clear()
            await self._fresh.wait()

    async def _rest(self) -> None:
        """Until it is time for the next list, or the end is there. Tokens that come meanwhile wake nobody."""
        left = 0.0 if self._given is None else self._given + self._pace() - self._loop.time()
        if left <= 0:
            return
        self._resting = True
        self._fresh.clear()
        timer = self._loop.call_later(left, self._fresh.set)
        try:
            if not self._ended:
                await self._fresh.wait()
        finally:
            timer.cancel()
            self._resting = False

    def _wake(self) -> None:
        self._waking = False
        if self._ended or not self._resting:
            self._fresh.set()


Adapter = Optional[str]
"""Directory of an adapter, or None for the base model."""
