"""The engine beside its rivals: one run, the same models and the same text for all, one table for each model.

Every contender is a server that answers /v1/completions; each is started and ended here. The models have random
layers, and a head that makes them write a known text (contest/words.py): an answer that is another text does not count.
What is missing (environments, llama-server, models) is made at first use under `.bain-test/bench`, which takes a
while; after that a run takes about 25 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

sys.path.append(str(Path(__file__).resolve().parent))

from contest.bench import LARGE, SMALL, START, Bench
from contest.machine import Memory, facts, read_for_a_token
from contest.report import tables
from contest.works import works
from contest.workshop import models
from rivals import CONTENDERS


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    began, load, interrupted = perf_counter(), os.getloadavg()[0], False
    models()
    with Memory() as memory:

        def ceiling(checkpoint: str) -> float:
            return memory.read() * 1e9 / read_for_a_token(checkpoint)

        bench = Bench([CONTENDERS[name] for name in options.only], options.work, ceiling, quick=options.quick)
        try:
            bench.run()
        except KeyboardInterrupt:
            interrupted = True
    text = page(bench, facts(memory.rates, load), perf_counter() - began, interrupted=interrupted)
    print(text)
    if options.save:
        (Path(__file__).parent / "results" / f"{options.save}.md").write_text(text + "\n")
    return 130 if interrupted else 0


def page(bench: Bench, machine: str, seconds: float, *, interrupted: bool) -> str:
    """What is printed and saved."""
    many = "one measurement each" if bench.times == 1 else f"medians of {bench.times}"
    lines = [
        "## The engine beside its rivals",
        f"\n{machine}; {many}; {seconds / 60:.1f} minutes{', INTERRUPTED' if interrupted else ''}. "
        "bf16 unless it says int8; percentages are of what memory allowed at that time.",
        "\n" + "; ".join(contender.version for contender in bench.contenders) + ".",
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
