"""One run: every contender, every work, and what came of it."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from time import perf_counter

from contest.client import Client
from contest.contender import Contender, Order, Served
from contest.measures import Run, answered
from contest.processes import Failed
from contest.targets import OURS
from contest.texts import Prompts
from contest.works import Work, works
from contest.workshop import say

TIMES = 5
START = "start"
START_ROW = "start to first token, s"
LARGE, SMALL, TINY = "r475m", "r100m", "tiny"


class Bench:
    """One run and its results."""

    def __init__(
        self, contenders: Sequence[Contender], chosen: Sequence[str], ceiling: Callable[[str], float], *, quick: bool
    ) -> None:
        """`ceiling` says what memory allows now, in tokens a second of a stream of a checkpoint."""
        self.contenders = contenders
        self._ceiling = ceiling
        self.large = TINY if quick else LARGE
        start = Work(START, Order(self.large), (START_ROW,), start_again)
        known = [start, *works(self.large, TINY if quick else SMALL)]
        self.works = [work for work in known if work.name in chosen]
        self.times = 1 if quick else TIMES
        self.results: dict[str, dict[str, float | str]] = {}
        self._prompts = Prompts()

    def rows(self) -> list[tuple[str, str]]:
        """(model, row) of all works, by model."""
        return [(work.order.checkpoint, row) for work in self.works for row in work.rows]

    def run(self) -> None:
        for contender in self.contenders:
            began = perf_counter()
            self.measure(contender)
            say(f"{contender.name}: {perf_counter() - began:.0f} s")

    def measure(self, contender: Contender) -> None:
        """All works of one contender, each start shared by all works that can."""
        ours = contender.name == OURS
        measured = [work for work in self.works if ours or not work.only_ours]
        self.note(contender, (row for work in self.works if work not in measured for row in work.rows), "-")
        try:
            contender.prepare([work.order for work in measured])
        except Failed as error:
            rows = [row for work in measured for row in work.rows]
            return self.note(contender, rows, f"{contender.name} cannot be installed: {error}")
        for order, group in groupby(measured, lambda work: contender.suited(work.order)):
            self.serve(contender, order, list(group))
        return None

    def serve(self, contender: Contender, order: Order, works: Sequence[Work]) -> None:
        """One start, and the works on it."""
        began = perf_counter()
        try:
            with contender.serve(order) as served:
                for work in works:
                    if work.name == START and served.unload is None:
                        self.record(contender, {START_ROW: asyncio.run(first_answer(served, began))})
                    else:
                        self.do(contender, served, work)
            if works[0].name == START and served.unload is None:
                self.more_starts(contender, order)
        except Failed as error:
            missing = [row for work in works for row in work.rows if row not in self.results.get(contender.name, {})]
            self.note(contender, missing, f"{contender.name}: {error}")

    def do(self, contender: Contender, served: Served, work: Work) -> None:
        """One work; what goes wrong stands in its rows."""

        async def measure() -> None:
            async with Client(served) as client:
                run = Run(served, client, self._prompts, self.times, lambda: self._ceiling(work.order.checkpoint))
                self.record(contender, await work.measure(run))

        try:
            asyncio.run(measure())
        except Failed as error:
            self.note(contender, work.rows, f"{contender.name}: {error}")

    def more_starts(self, contender: Contender, order: Order) -> None:
        """Further starts beside the first one; the median of all counts."""
        first = self.results[contender.name][START_ROW]
        assert isinstance(first, float)
        seconds = [first]
        for _ in range(min(self.times, contender.starts) - 1):
            began = perf_counter()
            with contender.serve(order) as served:
                seconds.append(asyncio.run(first_answer(served, began)))
        self.record(contender, {START_ROW: statistics.median(seconds)})

    def record(self, contender: Contender, figures: Mapping[str, float | str]) -> None:
        for row, figure in figures.items():
            self.results.setdefault(contender.name, {})[row] = figure
            say(f"{contender.name}: {row}: {figure if isinstance(figure, str) else format(figure, '.3f')}")

    def note(self, contender: Contender, rows: Iterable[str], reason: str) -> None:
        for row in rows:
            self.results.setdefault(contender.name, {})[row] = reason
        if reason != "-":
            say(reason)


async def first_answer(served: Served, began: float) -> float:
    """Seconds from `began` to the first token."""
    async with Client(served) as client:
        run = Run(served, client, Prompts(), 1)
        return (await answered(run, 16, 1)).first - began


async def start_again(run: Run) -> dict[str, float]:
    """Seconds from the request that starts the process of an unloaded model to its first token."""
    assert run.served.unload is not None
    seconds = []
    for _ in range(run.times + 1):
        await asyncio.to_thread(run.served.unload)
        seconds.append((await answered(run, 16, 1)).to_first)
    return {START_ROW: statistics.median(seconds[1:])}
