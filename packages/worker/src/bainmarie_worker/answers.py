"""One request's answer, from its sequences to HTTP: whole, or as server-sent events; with one choice or several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from bainmarie_worker.chat import Prompt
from bainmarie_worker.disconnect import EventStream
from bainmarie_worker.engine.engine import Engine, Tokenizer
from bainmarie_worker.engine.sequence import TokenStream
from bainmarie_worker.errors import RequestError
from bainmarie_worker.reading import Outcome, Reading
from bainmarie_worker.replies import DONE, Json, Reply, event, usage, whole
from bainmarie_worker.requests import Wish
from bainmarie_worker.tool_parsers import Parser


@dataclass(frozen=True)
class Asked:
    """What is to be answered, and in which shape."""

    wish: Wish
    prompt: Prompt
    tokenizer: Tokenizer
    make_reply: type[Any]
    """`ChatReply` or `CompletionReply`."""
    make_parser: Callable[[], Parser | None]


Note = Callable[[str, list[int]], None]
"""Told the text and the ids of a prompt with its answer."""


async def answer(engine: Engine, asked: Asked, model: str, note: Note) -> Response:
    """Headers are sent when the first token of each choice is there: what fails before has an honest status.

    RequestError where the queue does not take all choices: then it takes none.
    """
    wish = asked.wish
    streams: list[TokenStream] = []
    try:
        for sequence in asked.prompt.sequences(wish.n):
            streams.append(engine.submit(sequence))
        for stream in streams:
            await stream.started()
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    readings = [Reading(stream, asked.tokenizer, wish.stop, asked.make_parser()) for stream in streams]
    head: Json = asked.make_reply.head(model)
    replies: list[Reply] = [asked.make_reply(index) for index in range(wish.n)]
    if wish.stream:
        return EventStream(_events(asked, readings, replies, head, note))
    try:
        outcomes = await asyncio.gather(*(_read(reading, reply) for reading, reply in zip(readings, replies)))
    finally:
        for stream in streams:
            stream.cancel()
    _note(asked, readings, note)
    return JSONResponse(whole(head, replies, outcomes))


async def _read(reading: Reading, reply: Reply) -> Outcome:
    async for deltas in reading.pieces():
        for delta in deltas:
            reply.add(delta, reading.chances())
    assert reading.outcome is not None
    return reading.outcome


async def _events(
    asked: Asked, readings: Sequence[Reading], replies: Sequence[Reply], head: Json, note: Note
) -> AsyncIterator[bytes]:
    """The answer as server-sent events; those that are there at the same time come together, `DONE` with the last.

    An error after the first byte is an event too, and then there is no finish.
    """
    null: dict[str, Any] = {"usage": None} if asked.wish.include_usage else {}
    pieces = _merged([_choices(reading, reply) for reading, reply in zip(readings, replies)])
    left = len(readings)
    try:
        async for choices in pieces:
            data = b"".join(event({**head, "choices": [choice], **null}) for choice in choices)
            left -= sum(choice["finish_reason"] is not None for choice in choices)
            if not left:
                _note(asked, readings, note)
                data += _end(head, readings) if asked.wish.include_usage else DONE
            yield data
    except RequestError as error:
        yield event(error.to_json()) + DONE
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]


def _end(head: Json, readings: Sequence[Reading]) -> bytes:
    outcomes = [reading.outcome for reading in readings if reading.outcome is not None]
    return event({**head, "choices": [], "usage": usage(outcomes)}) + DONE


async def _choices(reading: Reading, reply: Reply) -> AsyncIterator[list[Json]]:
    """The chunks of one choice, by the pieces in which they come."""
    pieces = reading.pieces()
    try:
        opening = reply.opening()
        choices = [] if opening is None else [opening]
        async for deltas in pieces:
            choices += [reply.add(delta, reading.chances()) for delta in deltas]
            if reading.outcome is not None:
                choices.append(reply.closing(reading.outcome))
            yield choices
            choices = []
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]


async def _merged(sources: list[AsyncIterator[list[Json]]]) -> AsyncIterator[list[Json]]:
    """What all the sources give, as it comes. Closing it closes them; the first error ends it."""
    if len(sources) == 1:
        try:
            async for item in sources[0]:
                yield item
        finally:
            await sources[0].aclose()  # type: ignore[attr-defined]
        return
    items: asyncio.Queue[list[Json] | None] = asyncio.Queue(maxsize=len(sources))

    async def pour(source: AsyncIterator[list[Json]]) -> None:
        try:
            async for item in source:
                await items.put(item)
        finally:
            await source.aclose()  # type: ignore[attr-defined]
            await items.put(None)

    tasks = [asyncio.ensure_future(pour(source)) for source in sources]
    try:
        left = len(tasks)
        while left:
            poured = await items.get()
            if poured is not None:
                yield poured
                continue
            left -= 1
            for task in tasks:
                if task.done():
                    task.result()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _note(asked: Asked, readings: Sequence[Reading], note: Note) -> None:
    for reading in readings:
        note(asked.prompt.text + reading.text(), [*asked.prompt.sequence.prompt, *reading.ids])
