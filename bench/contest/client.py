"""The one client of all contenders: completions as streams, with the moments of their pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import aiohttp

from contest.contender import Served
from contest.processes import Failed

PATIENCE = 300
"""Seconds one request may take; a contender that needs more has lost that row."""


@dataclass(frozen=True)
class Answer:
    """One completion. Moments are of `perf_counter`."""

    began: float
    first: float
    """When its first text came."""
    last: float
    text: str
    tokens: int
    cached: int | None
    """Tokens of the prompt that were not computed again, where the contender says so."""

    @property
    def to_first(self) -> float:
        return self.first - self.began

    @property
    def whole(self) -> float:
        return self.last - self.began

    @property
    def per_second(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / (self.last - self.first)


class Client:
    """Use as an async context manager. Any number of requests at once."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def __aenter__(self) -> Client:
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)  # llama-server closes after a stream unasked
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def complete(
        self, prompt: str, tokens: int, *, model: str | None = None, started: asyncio.Event | None = None
    ) -> Answer:
        """`tokens` tokens after `prompt`; sets `started` at the first. Failed with the contender's words otherwise."""
        body = {"model": model or self._served.models[0], "prompt": prompt, "max_tokens": tokens, "stream": True}
        body |= {"stream_options": {"include_usage": True}, **self._served.body}
        began, moments, pieces, cached = perf_counter(), [], [], None
        try:
            async with self._session.post(self._served.address + "/v1/completions", json=body) as response:
                if response.status != 200:
                    raise Failed(f"{response.status}: {(await response.text())[:200]}")
                async for line in response.content:
                    chunk = _chunk(line)
                    text = chunk["choices"][0].get("text", "") if chunk.get("choices") else ""
                    if text:
                        moments.append(perf_counter())
                        pieces.append(text)
                        if started:
                            started.set()
                    cached = _cached(chunk["usage"]) if chunk.get("usage") else cached
        except TimeoutError as error:
            raise Failed(f"> {PATIENCE} s") from error
        except aiohttp.ClientError as error:
            raise Failed(f"connection lost: {error}") from error
        if not moments:
            raise Failed("no text came")
        return Answer(began, moments[0], moments[-1], "".join(pieces), tokens, cached)

    async def together(self, prompts: Sequence[str], tokens: int, models: Sequence[str] = ()) -> float:
        """Seconds until all answers to requests that were sent at once are complete."""
        began = perf_counter()
        names = models or [self._served.models[0]] * len(prompts)
        requests = [self.complete(p, tokens, model=name) for p, name in zip(prompts, names, strict=True)]
        await asyncio.gather(*requests)
        return perf_counter() - began


def _chunk(line: bytes) -> dict[str, Any]:
    """The JSON of an SSE line; {} for others."""
    if not line.startswith(b"data: {"):
        return {}
    chunk = json.loads(line[6:])
    if "error" in chunk:
        raise Failed(str(chunk["error"])[:200])
    return dict(chunk)


def _cached(usage: dict[str, Any]) -> int | None:
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
