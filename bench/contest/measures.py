"""How each work is measured: a function takes a contender that is up and returns figures by row of the table."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from contest.client import Answer, Client
from contest.contender import ADAPTERS, Served
from contest.memory import shares
from contest.processes import Failed
from contest.targets import CEILING
from contest.texts import Prompts, conversation
from contest.words import walk

Figures = Mapping[str, float | str]
"""By row; text says why there is none."""
median = statistics.median
LONG = 8.0
"""Seconds of work that need no repetition: over many requests what disturbs them evens out."""


@dataclass(frozen=True)
class Run:
    """What a work is given."""

    served: Served
    client: Client
    prompts: Prompts
    times: int
    """Medians are of so many."""
    ceiling: Callable[[], float] = lambda: float("inf")
    """Tokens a second that one stream of this model can have at most, as fast as memory is now."""


async def repeated(run: Run, measure: Callable[[], Awaitable[float]]) -> float:
    """Median of `run.times`; where one takes more than LONG seconds it counts alone, so that a run ends in time."""
    figures: list[float] = []
    while len(figures) < run.times:
        began = perf_counter()
        figures.append(await measure())
        if perf_counter() - began > LONG:
            break
    return median(figures)


async def answered(run: Run, length: int, tokens: int) -> Answer:
    """One answer to a prompt of `length` tokens that nobody saw before. Failed where the text is not the right one."""
    prompt, place = run.prompts.take(length)
    answer = await run.client.complete(prompt, tokens)
    check(answer, walk(place, tokens))
    return answer


def check(answer: Answer, right: str) -> None:
    """Failed where a contender writes something else than the model does."""
    if answer.text.strip() != right.strip():
        raise Failed(f"wrong text: {answer.text[:30]!r}, not {right[:30]!r}")


async def prefill(run: Run) -> Figures:
    """Prompt tokens a second until the first token."""
    await answered(run, 64, 4)
    rates = {
        length: [length / (await answered(run, length, 1)).to_first for _ in range(run.times)] for length in (512, 2048)
    }
    return {f"prefill {length}, tok/s": median(of) for length, of in rates.items()}


async def decode(run: Run) -> Figures:
    """Tokens a second of one stream, at two lengths of context, and what memory allowed at that time.

    The same prompt again: only decoding counts.
    """
    figures = {}
    for length in (128, 1024):
        prompt, place = run.prompts.take(length)
        check(await run.client.complete(prompt, 33), walk(place, 33))
        rates, ceilings = [], []
        for _ in range(run.times):
            ceilings.append(run.ceiling())
            rates.append((await run.client.complete(prompt, 33)).per_second)
        row = f"decode at context {length}, tok/s"
        figures |= {row: median(rates), CEILING + row: median(ceilings)}
    return figures


async def decode_int8(run: Run) -> Figures:
    figures = await decode(run)
    return {"decode with int8 weights, tok/s": figures["decode at context 128, tok/s"]}


async def clients(run: Run) -> Figures:
    """Tokens a second of all, prompt 256, output 64: one after the other, 8 and 16 at once."""

    async def rate(number: int) -> float:
        prompts = [run.prompts.take(256)[0] for _ in range(number)]
        return number * 64 / await run.client.together(prompts, 64)

    await answered(run, 256, 4)
    return {
        "1 client, tok/s": await repeated(run, lambda: rate(1)),
        "8 clients, tok/s": await repeated(run, lambda: rate(8)),
        "16 clients, tok/s": await repeated(run, lambda: rate(16)),
    }


async def tool_loop(run: Run) -> Figures:
    """Turn 6 of a tool loop, 60 tokens, with new text and with text that copies.

    Turn 5 is asked for before, unmeasured: with it and its answer the contender has seen all that turn 6 builds on.
    """
    figures = {}
    for kind, copying in (("new text", False), ("copied text", True)):
        answers = []
        for number in range(run.times):
            place = 1000 * copying + 331 * number
            turns = conversation(place, turns=6, first=1500, answer=60, result=150, copying=copying)
            await run.client.complete(turns[4].prompt, 60)
            answers.append(await run.client.complete(turns[5].prompt, 60))
            check(answers[-1], turns[5].answer)
        figures[f"turn 6, {kind}: first token, s"] = median([a.to_first for a in answers])
        figures[f"turn 6, {kind}: whole turn, s"] = median([a.whole for a in answers])
    return figures


async def beside_others(run: Run) -> Figures:
    """First token (prompt 256) alone, and while 8 others decode and one prefills 4,000 tokens."""
    await answered(run, 256, 4)
    alone = median([(await answered(run, 256, 1)).to_first for _ in range(run.times)])
    return {"first token alone, s": alone, "first token beside 8 and a prompt of 4,000, s": await _beside(run)}


async def _beside(run: Run) -> float | str:
    others, begun = [], []
    for _ in range(8):
        begun.append(asyncio.Event())
        prompt, _ = run.prompts.take(64)
        others.append(asyncio.create_task(run.client.complete(prompt, 900, started=begun[-1])))
    try:
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), 30)
        return median([await _probe(run) for _ in range(run.times)])
    except TimeoutError:
        return "it answers one request at a time, so it waits for all before it"
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _probe(run: Run) -> float:
    long, _ = run.prompts.take(4000)
    prefill = asyncio.create_task(run.client.complete(long, 1))
    await asyncio.sleep(0.05)
    try:
        return (await answered(run, 256, 1)).to_first
    finally:
        with suppress(Failed):
            await prefill


async def lora(run: Run) -> Figures:
    """An un-merged adapter against its base: one stream, and 8 at once over 4 adapters."""
    base, names = run.served.models[0], [f"lora-{n}" for n in range(ADAPTERS)]
    prompt, _ = run.prompts.take(128)
    rates: dict[str, list[float]] = {base: [], names[0]: []}
    for _ in range(run.times):
        for name, of in rates.items():
            await run.client.complete(prompt, 2, model=name)
            of.append((await run.client.complete(prompt, 33, model=name)).per_second)
    one = median(rates[base]) / median(rates[names[0]])

    async def eight(models: Sequence[str]) -> float:
        return await run.client.together([run.prompts.take(32)[0] for _ in models], 48, models)

    mixed = await repeated(run, lambda: eight(names * 2)) / await repeated(run, lambda: eight([base] * 8))
    return {"LoRA, one stream: time of base": one, "4 adapters in a batch of 8: time of base": mixed}


async def two_workers(run: Run) -> Figures:
    """Tokens a second of two workers at once, one stream each, against one of them with the other idle."""
    first, second = run.served.models
    prompt, _ = run.prompts.take(128)

    async def rate(*models: str) -> float:
        return len(models) * 64 / await run.client.together([prompt] * len(models), 64, models)

    await rate(first, second)
    one = median([await rate(first) for _ in range(run.times)])
    two = median([await rate(first, second) for _ in range(run.times)])
    return {"one worker busy, tok/s": one, "two workers busy, tok/s together": two}


async def memory(run: Run) -> Figures:
    """What the second worker of the same checkpoint holds, after both have answered."""
    for name in run.served.models:
        prompt, _ = run.prompts.take(64)
        await run.client.complete(prompt, 8, model=name)
    proportional, own = shares(run.served.pids()[1])
    return {"second worker: PSS, MB": proportional, "second worker: its own (USS), MB": own}


async def growth(run: Run) -> Figures:
    """A conversation of 50 turns, each 20 tokens on 30 from outside: seconds of the first and of the last five."""
    turns = conversation(0, turns=50, first=500, answer=20, result=30, copying=False)
    seconds = [(await run.client.complete(turn.prompt, 20)).whole for turn in turns]
    return {"turns 2-6, s each": median(seconds[1:6]), "turns 46-50, s each": median(seconds[-5:])}


async def queued(run: Run) -> Figures:
    """Milliseconds a token (prompt 32, output 8) with 16 requests sent at once, and with 1,000."""

    async def cost(number: int) -> float:
        prompts = [run.prompts.take(32)[0] for _ in range(number)]
        return await run.client.together(prompts, 8) * 1000 / (number * 40)

    await cost(16)
    few = median([await cost(16) for _ in range(run.times)])
    return {"16 requests, ms a token": few, "1,000 requests, ms a token": await cost(1000)}
