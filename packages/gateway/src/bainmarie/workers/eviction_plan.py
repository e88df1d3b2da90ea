"""Which idle workers have to go so that another fits into the memory budget: a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Holder:
    """A worker that holds memory, or is about to."""

    key: str
    names: tuple[str, ...]
    bytes: int
    idle_seconds: float | None
    """Since its last use; None where it is used, loading or pinned and must stay."""
    load_seconds: float
    """What it costs to have it back."""


@dataclass(frozen=True)
class Plan:
    """`evict` in this order; `fits` says whether that is enough."""

    need: int
    budget: int | None
    evict: tuple[Holder, ...]
    stays: tuple[Holder, ...]
    fits: bool


def plan(need: int, budget: int | None, holders: Sequence[Holder]) -> Plan:
    """The fewest evictions, those first that were used longest ago, measured by what their return costs.

    Nothing is evicted where it would not be enough. Without a budget everything fits.
    """
    total = sum(holder.bytes for holder in holders)
    if budget is None or total + need <= budget:
        return Plan(need, budget, (), tuple(holders), True)
    idle = [holder for holder in holders if holder.idle_seconds is not None]
    if total - sum(holder.bytes for holder in idle) + need > budget:
        return Plan(need, budget, (), tuple(holders), False)
    chosen: list[Holder] = []
    for holder in sorted(idle, key=_first_to_go):
        if total + need <= budget:
            break
        chosen.append(holder)
        total -= holder.bytes
    for holder in tuple(chosen):  # an early one may have become needless by a later, larger one
        if total + holder.bytes + need <= budget:
            chosen.remove(holder)
            total += holder.bytes
    return Plan(need, budget, tuple(chosen), tuple(h for h in holders if h not in chosen), True)


def _first_to_go(holder: Holder) -> float:
    assert holder.idle_seconds is not None
    return -holder.idle_seconds / max(0.1, holder.load_seconds)
