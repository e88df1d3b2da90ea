"""What `bain status` makes of the gateway's answer."""

from __future__ import annotations

from bainmarie.cli.status import limits


def test_each_limit_is_told_once_with_the_models_it_holds_for() -> None:
    old = {"info": {"limits": ["transformers 4.46: no sliding windows"]}}
    models = [{"id": "a", **old}, {"id": "b", "info": {}}, {"id": "c", **old}, {"id": "d"}]
    assert limits(models) == {"transformers 4.46: no sliding windows": ["a", "c"]}
