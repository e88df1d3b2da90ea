"""Who has to go: idle ones alone, no more than needed, and nobody where it would not help."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bainmarie.workers.eviction_plan import Holder, plan


def holder(key: str, size: int, idle: float | None, load: float = 1.0) -> Holder:
    return Holder(key, (key,), size, idle, load)


HOLDERS = st.lists(
    st.builds(
        Holder,
        st.uuids().map(str),
        st.just(("m",)),
        st.integers(0, 100),
        st.none() | st.floats(0, 1e4),
        st.floats(0, 100),
    )
)


@given(st.integers(0, 200), st.none() | st.integers(0, 500), HOLDERS)
def test_what_always_holds(need: int, budget: int | None, holders: list[Holder]) -> None:
    found = plan(need, budget, holders)
    assert all(h.idle_seconds is not None for h in found.evict)
    assert sorted(h.key for h in (*found.evict, *found.stays)) == sorted(h.key for h in holders)
    if budget is None:
        assert (found.fits, found.evict) == (True, ())
        return
    kept = sum(h.bytes for h in found.stays)
    busy = sum(h.bytes for h in holders if h.idle_seconds is None)
    assert found.fits == (busy + need <= budget)
    if found.fits:
        assert kept + need <= budget
        assert all(kept + need + h.bytes > budget for h in found.evict), "one of them could have stayed"
    else:
        assert found.evict == ()


def test_the_one_used_longest_ago_goes_first() -> None:
    found = plan(10, 100, [holder("old", 50, 60), holder("new", 50, 5)])
    assert [h.key for h in found.evict] == ["old"]


def test_but_not_where_its_return_costs_more() -> None:
    found = plan(10, 100, [holder("slow", 50, 60, load=100), holder("quick", 50, 30, load=1)])
    assert [h.key for h in found.evict] == ["quick"]


def test_no_small_one_goes_where_a_large_one_must() -> None:
    found = plan(60, 100, [holder("small", 10, 90), holder("large", 60, 30)])
    assert [h.key for h in found.evict] == ["large"]
