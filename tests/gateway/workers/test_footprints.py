"""What a worker has taken is remembered."""

from __future__ import annotations

from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.workers.footprints import Footprint, Footprints


def test_a_measurement_is_remembered_by_the_next_gateway(tmp_path: Path) -> None:
    model = ModelSpec("m", engine="command", command=("x",), memory=5)
    first = Footprints(tmp_path / "f.json")
    assert first.of(model) == Footprint({"cpu": 5})
    first.remember(model.worker_key, {"cpu": 7, "gpu1": 8}, 1.234)
    first.remember(model.worker_key, {"cpu": 0}, 9.0)
    assert Footprints(tmp_path / "f.json").of(model) == Footprint({"cpu": 7, "gpu1": 8}, 1.23, measured=True)
    (tmp_path / "f.json").write_text("{")
    assert Footprints(tmp_path / "f.json").of(model) == Footprint({"cpu": 5})
