"""Gaps double to their longest; too many crashes end the attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bainmarie.workers.backoff import Attempt, BackOff, next_try

POLICY = BackOff()


def test_gaps_double() -> None:
    failures = [Attempt(at=float(n), crash=False) for n in range(10)]
    gaps = [(next_try(failures[: n + 1], POLICY) or 0) - failures[n].at for n in range(10)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_the_sixth_crash_in_ten_minutes_is_the_last() -> None:
    crashes = [Attempt(at=100.0 * n, crash=True) for n in range(6)]
    assert next_try(crashes[:5], POLICY) == 416
    assert next_try(crashes, POLICY) is None


def test_old_crashes_count_no_more() -> None:
    crashes = [Attempt(at=200.0 * n, crash=True) for n in range(50)]
    assert next_try(crashes, POLICY) == crashes[-1].at + 4


@given(st.lists(st.tuples(st.floats(0, 10_000), st.booleans()), min_size=1))
def test_the_gap_is_never_outside_its_limits(raw: list[tuple[float, bool]]) -> None:
    failures = [Attempt(*one) for one in sorted(raw)]
    time = next_try(failures, POLICY)
    if time is None:
        assert sum(f.crash for f in failures) > POLICY.crashes
    else:
        assert failures[-1].at + POLICY.first <= time <= failures[-1].at + POLICY.longest
