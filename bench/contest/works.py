"""The works: which model they run on, which rows of the table they fill, how they are measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contest import measures
from contest.contender import Order
from contest.measures import Figures, Run


@dataclass(frozen=True)
class Work:
    """A kind of work. Its rows are those of the table, in their order."""

    name: str
    order: Order
    rows: tuple[str, ...]
    measure: Callable[[Run], Awaitable[Figures]]
    only_ours: bool = False
    """It speaks of what others do not have."""


def works(large: str, small: str) -> list[Work]:
    """All works, those that share a start beside one another, on these two models."""
    return [
        Work("prefill", Order(large), ("prefill 512, tok/s", "prefill 2048, tok/s"), measures.prefill),
        Work(
            "decode", Order(large), ("decode at context 128, tok/s", "decode at context 1024, tok/s"), measures.decode
        ),
        Work("int8", Order(large, int8=True), ("decode with int8 weights, tok/s",), measures.decode_int8),
        Work(
            "memory",
            Order(large, copies=2),
            ("second worker: PSS, MB", "second worker: its own (USS), MB"),
            measures.memory,
            only_ours=True,
        ),
        Work(
            "tools",
            Order(small),
            tuple(
                f"turn 6, {kind}: {what}, s"
                for kind in ("new text", "copied text")
                for what in ("first token", "whole turn")
            ),
            measures.tool_loop,
        ),
        Work("growth", Order(small), ("turns 2-6, s each", "turns 46-50, s each"), measures.growth, only_ours=True),
        Work(
            "clients",
            Order(small, clients=16),
            ("1 client, tok/s", "8 clients, tok/s", "16 clients, tok/s"),
            measures.clients,
        ),
        Work(
            "beside",
            Order(small, clients=16),
            ("first token alone, s", "first token beside 8 and a prompt of 4,000, s"),
            measures.beside_others,
        ),
        Work(
            "queue",
            Order(small, clients=16),
            ("16 requests, ms a token", "1,000 requests, ms a token"),
            measures.queued,
            only_ours=True,
        ),
        Work(
            "lora",
            Order(small, adapters=True, clients=8),
            ("LoRA, one stream: time of base", "4 adapters in a batch of 8: time of base"),
            measures.lora,
        ),
        Work(
            "workers",
            Order(small, copies=2),
            ("one worker busy, tok/s", "two workers busy, tok/s together"),
            measures.two_workers,
            only_ours=True,
        ),
    ]
