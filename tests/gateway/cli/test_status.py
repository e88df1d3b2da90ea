"""What `bain status` makes of the gateway's answer."""

from __future__ import annotations

from datetime import UTC, datetime

from bainmarie.cli.status import limits, until, ways


def test_each_limit_is_told_once_with_the_models_it_holds_for() -> None:
    old = {"info": {"limits": ["transformers 4.46: no sliding windows"]}}
    models = [{"id": "a", **old}, {"id": "b", "info": {}}, {"id": "c", **old}, {"id": "d"}]
    assert limits(models) == {"transformers 4.46: no sliding windows": ["a", "c"]}


def test_when_a_failed_model_is_tried_again() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert until("2026-01-02T03:04:05Z", now) == "the next request"
    assert until("2026-01-02T03:04:17Z", now) == "a request in 12 s or later"


def test_the_path_of_each_loaded_model_and_why_no_faster_one() -> None:
    slow = {"engine_path": "generate", "engine_path_reason": "its forward pass takes no cache"}
    models = [
        {"id": "a", "info": {"engine_path": "fused", "engine_path_reason": ""}},
        {"id": "b", "info": slow},
        {"id": "c", "info": None},
        {"id": "d", "info": slow},
    ]
    assert ways(models) == {
        "computed by the path fused": ["a"],
        "computed by the path generate (its forward pass takes no cache)": ["b", "d"],
    }
