"""Which accelerator a program means, who holds what of it, and how long its memory is waited for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bainmarie.workers.accelerators import Accelerators
from bainmarie.workers.nvml import Card, NoDriver

CARDS = [
    Card(0, "Tin", "GPU-aaaa-1", 1000, 400, {7: 500, 8: 100}),
    Card(1, "Zinc", "GPU-bbbb-2", 2000, 1990, {8: 10}),
]


def accelerators(budget: str | None = None, **environ: str) -> Accelerators:
    return Accelerators(budget, lambda: CARDS, environ)


@pytest.mark.parametrize(
    ("visible", "places"),
    [
        (None, ["gpu0", "gpu1"]),
        ("1,0", ["gpu1", "gpu0"]),
        ("1", ["gpu1"]),
        ("GPU-bbbb", ["gpu1"]),
        ("", []),
        ("-1", []),
        ("5", []),
    ],
)
def test_a_program_counts_what_it_may_see(visible: str | None, places: list[str]) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert accelerators(None, **environ).for_programs() == places


def test_budgets_and_holders_by_place() -> None:
    assert accelerators().budgets() == {}
    assert accelerators("90%").budgets() == {"gpu0": 900, "gpu1": 1800}
    assert accelerators("1GB").budgets() == {"gpu0": 10**9, "gpu1": 10**9}
    assert accelerators().held_by([7]) == {"gpu0": 500}
    assert accelerators().held_by([8, 9]) == {"gpu0": 100, "gpu1": 10}
    assert accelerators().held_by([]) == {}


async def test_memory_is_waited_for_and_not_for_ever() -> None:
    found = accelerators()
    assert await found.until_free({"gpu0": 400, "gpu1": 1990}, 10) is None
    assert await found.until_free({"gpu0": 401}, 0.05) == CARDS[0]
    assert await found.until_free_of([9], 10)
    assert not await found.until_free_of([8], 0.05)


def test_a_driver_that_is_not_there_is_looked_for_once() -> None:
    asked = []

    def read() -> Sequence[Card]:
        asked.append(1)
        raise NoDriver("none here")

    found = Accelerators("90%", read)
    assert (found.reason, list(found.cards()), found.budgets(), found.reason) == ("", [], {}, "none here")
    assert len(asked) == 1
