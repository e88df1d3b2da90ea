"""`transformers serve`, as its command line starts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from contest.contender import Order, Served
from contest.processes import Failed, free_port, running, wait_for_health
from contest.workshop import LOGS, TRANSFORMERS, transformers_python


class TransformersServe:
    name = "transformers serve"
    version = f"transformers serve: {', '.join(TRANSFORMERS[:2])}"
    starts = 5

    def prepare(self, orders: Sequence[Order]) -> None:
        transformers_python()

    def suited(self, order: Order) -> Order:
        return replace(order, clients=1)

    @contextmanager
    def serve(self, order: Order) -> Iterator[Served]:
        if order.int8 or order.adapters:
            raise Failed("it serves checkpoints as they are: no int8 for processors, no adapters")
        port, log = free_port(), LOGS / "transformers-serve.log"
        program = transformers_python().with_name("transformers")
        command: list[str | Path] = [program, "serve", order.folder, "--host", "127.0.0.1", "--port", str(port)]
        address = f"http://127.0.0.1:{port}"
        with running(command, log, {"HF_HUB_OFFLINE": "1"}) as process:
            wait_for_health(process, log, f"{address}/health", 120)
            yield Served(address, (str(order.folder),), {"temperature": 0, "seed": 1}, pids=lambda: [process.pid])
