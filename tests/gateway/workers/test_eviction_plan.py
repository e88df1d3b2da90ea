"""Who has to go: idle ones alone, no more than needed, and nobody where it would not help."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from bainmarie.workers.eviction_plan import Holder, plan
from bainmarie.workers.sizes import Sizes


def holder(key: str, size: int, idle: float | None, load: float = 1.0, **cards: int) -> Holder:
    return Holder(key, (key,), {"cpu": size, **cards}, idle, load)


SIZES = st.fixed_dictionaries({"cpu": st.integers(0, 100)}, optional={"gpu0": st.integers(0, 100)})
HOLDERS = st.lists(
    st.builds(
        Holder,
        st.uuids().map(str),
        st.just(("m",)),
        SIZES,
        st.none() | st.floats(0, 1e4),
        st.floats(0, 100),
    )
)
BUDGETS = st.fixed_dictionaries({}, optional={"cpu": st.integers(0, 500), "gpu0": st.integers(0, 500)})


def fit(need: Sizes, budget: Sizes, holders: Iterable[Holder]) -> bool:
    held = list(holders)
    return all(
        size + sum(h.sizes.get(place, 0) for h in held) <= budget[place]
        for place, size in need.items()
        if place in budget
    )


@given(SIZES, BUDGETS, HOLDERS)
def test_what_always_holds(need: Sizes, budget: Sizes, holders: list[Holder]) -> None:
    found = plan(need, budget, holders)
    assert all(h.idle_seconds is not None for h in found.evict)
    assert sorted(h.key for h in (*found.evict, *found.stays)) == sorted(h.key for h in holders)
    assert found.fits == fit(need, budget, [h for h in holders if h.idle_seconds is None])
    if found.fits:
        assert fit(need, budget, found.stays)
        assert not any(fit(need, budget, (*found.stays, h)) for h in found.evict), "one of them could have stayed"
    else:
        assert found.evict == ()
        assert found.lacking
    if not budget:
        assert (found.fits, found.evict) == (True, ())


def test_who_holds_nothing_of_what_lacks_stays() -> None:
    held = [holder("main", 90, 500), holder("card", 1, 5, gpu0=8), holder("elsewhere", 1, 900, gpu1=8)]
    found = plan({"cpu": 5, "gpu0": 7}, {"cpu": 100, "gpu0": 10, "gpu1": 10}, held)
    assert [h.key for h in found.evict] == ["card"]
    full = plan({"cpu": 5, "gpu0": 11}, {"cpu": 100, "gpu0": 10}, held)
    assert (full.fits, full.lacking) == (False, ("gpu0",))


def test_the_one_used_longest_ago_goes_first() -> None:
    found = plan({"cpu": 10}, {"cpu": 100}, [holder("old", 50, 60), holder("new", 50, 5)])
    assert [h.key for h in found.evict] == ["old"]


def test_but_not_where_its_return_costs_more() -> None:
    found = plan({"cpu": 10}, {"cpu": 100}, [holder("slow", 50, 60, load=100), holder("quick", 50, 30, load=1)])
    assert [h.key for h in found.evict] == ["quick"]


def test_no_small_one_goes_where_a_large_one_must() -> None:
    found = plan({"cpu": 60}, {"cpu": 100}, [holder("small", 10, 90), holder("large", 60, 30)])
    assert [h.key for h in found.evict] == ["large"]
