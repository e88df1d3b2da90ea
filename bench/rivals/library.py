"""transformers' own loop and its own continuous batching, behind the smallest server (`library_server.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from contest.contender import Order, Served
from contest.processes import Failed, first_line, running
from contest.workshop import LOGS, TRANSFORMERS, transformers_python

_SERVER = Path(__file__).with_name("library_server.py")


class Library:
    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.version = f"{name}: {', '.join(TRANSFORMERS[:2])}"
        self.starts = 5
        self._kind = kind

    def prepare(self, orders: Sequence[Order]) -> None:
        transformers_python()

    def suited(self, order: Order) -> Order:
        return replace(order, clients=1)

    @contextmanager
    def serve(self, order: Order) -> Iterator[Served]:
        if order.int8:
            raise Failed("its int8 for processors (bitsandbytes) is slower than bf16; not measured")
        if order.adapters and self._kind == "batching":
            raise Failed("it has no adapters")
        log = LOGS / f"library-{self._kind}.log"
        command: list[str | Path] = [transformers_python(), _SERVER, self._kind, order.folder, *order.adapter_folders()]
        with running(command, log) as process:
            yield Served(first_line(process, log), ("base",), pids=lambda: [process.pid])
