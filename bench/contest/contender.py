"""The interface of a contender: prepare once, serve a model for the length of a block, answer `/v1/completions`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from contest.workshop import MODELS

ADAPTERS = 4
GREEDY: Mapping[str, object] = {"temperature": 0, "seed": 1, "ignore_eos": True}


@dataclass(frozen=True)
class Order:
    """What is to be served."""

    checkpoint: str
    """r100m or r475m."""
    clients: int = 1
    """Requests that come at once, at most."""
    int8: bool = False
    adapters: bool = False
    """The four adapters of r100m too, as models `lora-0` ... `lora-3`."""
    copies: int = 1
    """Workers of the same checkpoint, beside one another."""

    @property
    def folder(self) -> Path:
        return MODELS / self.checkpoint

    def adapter_folders(self) -> list[Path]:
        return [MODELS / f"{self.checkpoint}-lora-{n}" for n in range(ADAPTERS if self.adapters else 0)]


@dataclass(frozen=True)
class Served:
    """A contender that is up, with its weights in memory unless it can `unload` them."""

    address: str
    models: tuple[str, ...]
    """Names in requests: one for each copy."""
    body: Mapping[str, object] = field(default_factory=lambda: GREEDY)
    """What it wants in a request beside prompt and length."""
    unload: Callable[[], None] | None = None
    """Ends the process that holds the model; the next request starts it again. None: only ending the block does."""
    pids: Callable[[], list[int]] = list
    """The processes that hold the weights, one for each copy."""


class Contender(Protocol):
    name: str
    version: str
    """What runs, in words for the report."""
    starts: int
    """How often its start is measured at most: some take a minute."""

    def prepare(self, orders: Sequence[Order]) -> None:
        """Installs and converts what these orders need and is missing. Failed with the reason where that cannot be."""

    def suited(self, order: Order) -> Order:
        """The order as it is served: orders that come out equal share one start."""

    def serve(self, order: Order) -> AbstractContextManager[Served]:
        """Up until the end of the block, then gone with all its processes. Failed where it cannot serve that."""
