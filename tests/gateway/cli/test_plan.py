"""`bain plan` in words, and on a real gateway."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.conftest import Cli, Gateway

from bainmarie.cli.plan import lines

GB = 10**9


def told(**changes: Any) -> dict[str, Any]:
    first = {"model": "m", "state": "unloaded", "memory_bytes": 2 * GB, "measured": False, "load_seconds": 0.0}
    cards = {"accelerator_bytes": {}, "accelerator_budget_bytes": {}}
    return {**first, **cards, "budget_bytes": 8 * GB, "fits": True, "evict": [], "stays": [], **changes}


def holder(*names: str, size: int, **cards: int) -> dict[str, Any]:
    return {"names": list(names), "bytes": size, "accelerator_bytes": cards}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["memory: 2.0 GB, estimated", "would be evicted: nobody"]),
        ({"memory_bytes": 0}, ["memory: not known before its first load", "would be evicted: nobody"]),
        (
            {"measured": True, "load_seconds": 3.21, "evict": [holder("a", "b", size=3 * GB)]},
            [
                "memory: 2.0 GB, measured at an earlier load; loading took 3.2 s then",
                "would be evicted: a (3.0 GB)",
            ],
        ),
        (
            {"fits": False, "stays": [holder("a", size=7 * GB)]},
            ["memory: 2.0 GB, estimated", "it does not fit into 8.0 GB; held and in use by: a (7.0 GB)"],
        ),
        (
            {"state": "ready", "measured": True, "load_seconds": 0.5},
            ["memory: 2.0 GB, measured; loading took 0.5 s", "would be evicted: nobody"],
        ),
        (
            {"fits": False, "stays": [holder("a", size=GB) | {"idle_seconds": 1.0}, holder("b", size=7 * GB)]},
            ["memory: 2.0 GB, estimated", "it does not fit into 8.0 GB; held and in use by: b (7.0 GB)"],
        ),
        (
            {"budget_bytes": None},
            ["memory: 2.0 GB, estimated", "there is no budget (memory.cpu, memory.gpu): nothing would be evicted"],
        ),
        (
            {
                "accelerator_bytes": {"gpu0": 6 * GB},
                "accelerator_budget_bytes": {"gpu0": 9 * GB, "gpu1": 9 * GB},
                "evict": [holder("a", size=GB, gpu0=5 * GB)],
            },
            [
                "memory: 2.0 GB + 6.0 GB of gpu0, estimated",
                "would be evicted: a (1.0 GB + 5.0 GB of gpu0)",
            ],
        ),
    ],
)
def test_the_plan_in_words(changes: dict[str, Any], said: list[str]) -> None:
    plan = told(**changes)
    assert lines(plan) == [f"m is {plan['state']}", *said]


def test_a_real_plan(cli: Cli, start_gateway: Callable[..., Gateway]) -> None:
    mine = {"engine": "command", "command": [sys.executable, "{port}"], "memory": "3GB"}
    url = start_gateway(json.dumps({"models": {"mine": mine}, "memory": {"cpu": "2GB"}})).address
    assert "mine is unloaded" in cli("plan", "mine", "--url", url).stdout
    assert "it does not fit into 2.0 GB; held and in use by: nobody" in cli("plan", "mine", "--url", url).stdout
    assert json.loads(cli("plan", "demo", "--json", "--url", url).stdout)["memory_bytes"] > 600 * 2**20
    assert cli("plan", "none", "--url", url).returncode == 4
