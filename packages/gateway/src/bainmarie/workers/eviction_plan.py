"""Which idle workers have to go so that another fits into the memory budget: a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bainmarie.workers.sizes import Sizes


@dataclass(frozen=True)
class Holder:
    """A worker that holds memory, or is about to."""

    key: str
    names: tuple[str, ...]
    sizes: Sizes
    idle_seconds: float | None
    """Since its last use; None where it is used, loading or pinned and must stay."""
    load_seconds: float
    """What it costs to have it back."""


@dataclass(frozen=True)
class Plan:
    """`evict` in this order; `fits` says whether that is enough."""

    need: Sizes
    budget: Sizes
    """A place that is not in it has no limit."""
    evict: tuple[Holder, ...]
    stays: tuple[Holder, ...]
    fits: bool
    lacking: tuple[str, ...] = ()
    """Where it does not fit: the places that are too small."""


def plan(need: Sizes, budget: Sizes, holders: Sequence[Holder]) -> Plan:
    """The fewest evictions, those first that were used longest ago, measured by what their return costs.

    Nothing is evicted where it would not be enough. Places that `need` does not name are not looked at.
    """
    busy = [holder for holder in holders if holder.idle_seconds is None]
    if lacking := _lacking(need, budget, busy):
        return Plan(need, budget, (), tuple(holders), False, lacking)
    chosen: list[Holder] = []
    stays = list(holders)
    for holder in sorted((h for h in holders if h.idle_seconds is not None), key=_first_to_go):
        lacking = _lacking(need, budget, stays)
        if any(holder.sizes.get(place) for place in lacking):
            chosen.append(holder)
            stays.remove(holder)
    for holder in tuple(chosen):  # an early one may have become needless by a later, larger one
        if not _lacking(need, budget, [*stays, holder]):
            chosen.remove(holder)
            stays.append(holder)
    return Plan(need, budget, tuple(chosen), tuple(h for h in holders if h not in chosen), True)


def _lacking(need: Sizes, budget: Sizes, holders: Iterable[Holder]) -> tuple[str, ...]:
    """The places that are too small for `need` beside `holders`."""
    held = list(holders)
    return tuple(
        place
        for place, size in need.items()
        if place in budget and size + sum(holder.sizes.get(place, 0) for holder in held) > budget[place]
    )


def _first_to_go(holder: Holder) -> float:
    assert holder.idle_seconds is not None
    return -holder.idle_seconds / max(0.1, holder.load_seconds)
