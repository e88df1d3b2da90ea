"""An idle worker goes when the last of its used models has waited long enough."""

from __future__ import annotations

import math

from bainmarie.workers.eviction import Use, expiry


def test_the_latest_wins() -> None:
    assert expiry([Use(100, 10), Use(50, 30), Use(0, 0)]) == 110
    assert expiry([Use(100, 0), Use(50, 300)]) == 350


def test_for_ever() -> None:
    assert expiry([Use(100, 10), Use(0, None)]) == math.inf


def test_unused() -> None:
    assert expiry([]) == math.inf
