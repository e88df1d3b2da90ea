"""What a worker will take: by the headers of its weights first, by measurement later."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from bainmarie.carried import demo_model
from bainmarie.catalog import ModelSpec
from bainmarie.workers.footprints import Footprint, Footprints, estimate

PROGRAM = 600 * 2**20


def weights(folder: Path, **tensors: tuple[str, list[int], int]) -> str:
    """A safetensors file without its data: only the header is read."""
    table, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, size) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}  # type: ignore[dict-item]
        at += size
    head = json.dumps(table).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    return str(folder)


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        ({}, 2_000_200),
        ({"dtype": "float32"}, 4_000_400),
        ({"quantization": "int8"}, 1_100_200),
        ({"quantization": "nf4"}, 600_200),
    ],
)
def test_the_first_estimate(tmp_path: Path, keys: dict[str, str], size: int) -> None:
    folder = weights(tmp_path, w=("BF16", [1000, 1000], 2_000_000), b=("BF16", [100], 200))
    assert estimate(ModelSpec("m", model=folder, **keys)) == size + PROGRAM  # type: ignore[arg-type]


def test_real_weights_are_understood() -> None:
    file = next(demo_model("demo").glob("*.safetensors"))
    found = estimate(ModelSpec("demo", model=str(demo_model("demo")))) - PROGRAM
    assert 0.9 * file.stat().st_size < found <= file.stat().st_size


def test_nothing_is_claimed_where_nothing_is_known(tmp_path: Path) -> None:
    assert estimate(ModelSpec("m", model="org/not-here")) == 0
    assert estimate(ModelSpec("m", engine="command", command=("x",))) == 0
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert estimate(ModelSpec("m", model=str(tmp_path))) == 0


def test_a_measurement_is_remembered_by_the_next_gateway(tmp_path: Path) -> None:
    model = ModelSpec("m", engine="command", command=("x",), memory=5)
    first = Footprints(tmp_path / "f.json")
    assert first.of(model) == Footprint(5)
    first.remember(model.worker_key, 7, 1.234)
    first.remember(model.worker_key, 0, 9.0)
    assert Footprints(tmp_path / "f.json").of(model) == Footprint(7, 1.23, measured=True)
    (tmp_path / "f.json").write_text("{")
    assert Footprints(tmp_path / "f.json").of(model) == Footprint(5)
