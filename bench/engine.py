"""The engine beside its rivals: one run, the same models and the same text for all, one table for each model.

Every contender is a server that answers /v1/completions; each is started and ended here. The models have random
layers, and a head that makes them write a known text (contest/words.py): an answer that is another text does not count.
What is missing (environments, llama-server, models) is made at first use under `.bain-test/bench`, which takes a
while; after that a run takes about 20 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from time import perf_counter

sys.path.append(str(Path(__file__).resolve().parent))

from contest.client import Client
from contest.contender import Contender, Order, Served
from contest.machine import bandwidth, facts, read_for_a_token
from contest.processes import Failed
from contest.report import tables
from contest.targets import CEILING
from contest.texts import Prompts
from contest.works import Run, Work, answered, works
from contest.workshop import models, say
from rivals import CONTENDERS

TIMES = 5
START = "start"
START_ROW = "start to first token, s"
LARGE, SMALL, TINY = "r475m", "r100m", "tiny"


class Bench:
    """One run and its results."""

    def __init__(self, contenders: Sequence[Contender], chosen: Sequence[str], *, quick: bool) -> None:
        self.contenders = contenders
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
        ours = contender is CONTENDERS["ours"]
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
                self.record(contender, await work.measure(Run(served, client, self._prompts, self.times)))

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


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    bench = Bench([CONTENDERS[name] for name in options.only], options.work, quick=options.quick)
    began, load, interrupted = perf_counter(), os.getloadavg()[0], False
    rates: list[float] = []
    try:
        models()
        rates.append(bandwidth())
        ceiling = rates[0] * 1e9 / read_for_a_token(bench.large)
        bench.results[CEILING] = {row: ceiling for _, row in bench.rows() if row.startswith("decode at")}
        bench.run()
        rates.append(bandwidth())
    except KeyboardInterrupt:
        interrupted = True
    text = page(bench, facts(rates, load), perf_counter() - began, interrupted=interrupted)
    print(text)
    if options.save:
        (Path(__file__).parent / "results" / f"{options.save}.md").write_text(text + "\n")
    return 130 if interrupted else 0


def page(bench: Bench, machine: str, seconds: float, *, interrupted: bool) -> str:
    """What is printed and saved."""
    many = "one measurement each" if bench.times == 1 else f"medians of {bench.times}"
    ceiling = bench.results.get(CEILING, {})
    lines = [
        "## The engine beside its rivals",
        f"\n{machine}; {many}; {seconds / 60:.1f} minutes{', INTERRUPTED' if interrupted else ''}. "
        "bf16 unless it says int8; percentages are of the memory ceiling"
        + "".join(f" ({value:.1f} tok/s)" for value in list(ceiling.values())[:1] if isinstance(value, float))
        + ".",
        tables(bench.rows(), [contender.name for contender in bench.contenders], bench.results),
    ]
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    names = [START, *(work.name for work in works(LARGE, SMALL))]

    def among(known: Iterable[str]) -> Callable[[str], list[str]]:
        there = list(known)

        def read(text: str) -> list[str]:
            chosen = text.split(",")
            if wrong := [name for name in chosen if name not in there]:
                raise argparse.ArgumentTypeError(f"no {wrong[0]!r}; there are {', '.join(there)}")
            return chosen

        return read

    parser = argparse.ArgumentParser(prog="run bench engine", description=__doc__)
    parser.add_argument("--only", type=among(CONTENDERS), default=list(CONTENDERS), help=", ".join(CONTENDERS))
    parser.add_argument("--work", type=among(names), default=names, help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="a tiny model, each once: does all of it work?")
    parser.add_argument("--save", metavar="NAME", help="write the tables to bench/results/NAME.md too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
