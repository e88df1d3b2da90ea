"""From a stream of tokens to what a client may see: words, tool calls, probabilities, and how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from bainmarie_worker.detokenize import Detokenizer, StopStrings
from bainmarie_worker.engine.engine import Spelling, Tokenizer
from bainmarie_worker.engine.sequence import Drawn, Token, TokenStream
from bainmarie_worker.errors import RequestError
from bainmarie_worker.tool_parsers import CallArguments, CallStart, Delta, Parser, Text
from bainmarie_worker.tool_parsers.call_json import is_object


@dataclass(frozen=True)
class Outcome:
    """How an answer ended, and what it took."""

    finish_reason: str
    """stop | length | tool_calls"""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Chance:
    """A token with its log probability, and the likeliest ones at its place."""

    token: Spelling
    logprob: float
    likeliest: tuple[tuple[Spelling, float], ...]


class Reading:
    """Reads one token stream to its end."""

    def __init__(self, stream: TokenStream, tokenizer: Tokenizer, stop: tuple[str, ...], parser: Parser | None) -> None:
        self.outcome: Outcome | None = None
        """Set with the last piece."""
        self.ids: list[int] = []
        """The answer's tokens so far."""
        self._stream = stream
        self._tokenizer = tokenizer
        self._text = Detokenizer(tokenizer.decode)
        self._stop = StopStrings(stop)
        self._parser = parser
        self._called = False
        self._arguments = ""
        """What the latest call has of them."""
        self._chances: list[Chance] = []

    async def pieces(self) -> AsyncIterator[list[Delta]]:
        """What became certain together; the last piece may be empty.

        Leaving early, for whatever reason, cancels the sequence. RequestError where the worker stops.
        """
        found: list[Delta] = []
        try:
            async for tokens in self._stream:
                found = self._parsed(self._certain(tokens))
                if self._stop.found:
                    await self._stream.drain()
                if self._stream.finish is not None:
                    break
                if found:
                    yield found
                found = []
            rest = "" if self._stop.found else self._stop.feed(self._text.finish()) + self._stop.finish()
            found += self._parsed(rest) + self._noted(self._parser.finish() if self._parser else [])
            self.outcome = self._ended(len(self.ids))
            yield found
        finally:
            self._stream.cancel()

    def chances(self) -> list[Chance]:
        """Those of the tokens since the last call; always empty where the request asks for none."""
        taken, self._chances = self._chances, []
        return taken

    def text(self) -> str:
        """The answer as the model wrote it, with the marks of tool calls."""
        return self._tokenizer.decode(self.ids)

    def _certain(self, tokens: list[Token]) -> str:
        """The text that they make certain; those behind a stop string do not count."""
        if not self._stop.any:
            return self._text.feed([self._taken(item) for item in tokens])
        text = ""
        for item in tokens:
            text += self._stop.feed(self._text.feed([self._taken(item)]))
            if self._stop.found:
                break
        return text

    def _taken(self, item: Token) -> int:
        if isinstance(item, Drawn):
            self._chances.append(self._chance(item))
        token = item.token if isinstance(item, Drawn) else item
        self.ids.append(token)
        return token

    def _chance(self, drawn: Drawn) -> Chance:
        spell = self._tokenizer.spell
        likeliest = tuple((spell(token), value) for token, value in drawn.likeliest)
        return Chance(spell(drawn.token), drawn.logprob, likeliest)

    def _parsed(self, text: str) -> list[Delta]:
        if not text:
            return []
        return self._noted(self._parser.feed(text)) if self._parser else [Text(text)]

    def _noted(self, found: list[Delta]) -> list[Delta]:
        for delta in found:
            if isinstance(delta, CallStart):
                self._called, self._arguments = True, ""
            elif isinstance(delta, CallArguments):
                self._arguments += delta.text
        return found

    def _ended(self, tokens: int) -> Outcome:
        finish = self._stream.finish
        assert finish is not None
        reason, generated = finish.reason, finish.generated
        called = self._called
        if self._stop.found:
            reason, generated = "stop", tokens
            called = called and is_object(self._arguments)  # else the stop string was inside the call
        elif reason == "cancelled":
            raise RequestError(503, "the worker stops", code="stopping", hint="Try again in a moment.")
        return Outcome(
            finish_reason="tool_calls" if called and reason == "stop" else reason,
            prompt_tokens=len(self._stream.sequence.prompt),
            completion_tokens=generated,
            cached_tokens=finish.cached,
        )
