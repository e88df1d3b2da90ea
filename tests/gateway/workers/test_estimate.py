"""What a worker will take, by the headers of its weights, its quantization and its context."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from bainmarie.carried import demo_model
from bainmarie.catalog import ModelSpec
from bainmarie.workers.estimate import estimate

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
    assert estimate(ModelSpec("m", model=folder, **keys), []) == {"cpu": size + PROGRAM}  # type: ignore[arg-type]


def test_real_weights_are_understood() -> None:
    file = next(demo_model("demo").glob("*.safetensors"))
    found = estimate(ModelSpec("demo", model=str(demo_model("demo")), context=1), [])["cpu"] - PROGRAM
    assert 0.9 * file.stat().st_size < found < 1.01 * file.stat().st_size


def test_nothing_is_claimed_where_nothing_is_known(tmp_path: Path) -> None:
    assert estimate(ModelSpec("m", model="org/not-here"), []) == {}
    assert estimate(ModelSpec("m", engine="command", command=("x",)), ["gpu0"]) == {}
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert estimate(ModelSpec("m", model=str(tmp_path)), []) == {}


def test_keys_and_values_of_the_context_count(tmp_path: Path) -> None:
    folder = weights(tmp_path, w=("BF16", [1000, 1000], 2_000_000))
    config = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 256}
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 100_000}))
    token = 2 * 4 * 2 * 32 * 2  # keys and values, layers, heads, their size, two bytes
    known = 2_000_000 + PROGRAM
    assert estimate(ModelSpec("m", model=folder, context=500), []) == {"cpu": known + 500 * token}
    assert estimate(ModelSpec("m", model=folder), []) == {"cpu": known + 8192 * token}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {**config, "max_position_embeddings": 100}}))
    assert estimate(ModelSpec("m", model=folder), []) == {"cpu": known + 100 * token}


@pytest.mark.parametrize(
    ("keys", "places"),
    [
        ({}, {"gpu2": 1}),
        ({"device": "cuda"}, {"gpu2": 1}),
        ({"device": "cuda:1"}, {"gpu0": 1}),
        ({"device": "cpu"}, {"cpu": 1}),
        ({"device": "cuda:5"}, {"cpu": 1}),
        ({"device_map": "balanced"}, {"gpu2": 0.5, "gpu0": 0.5}),
    ],
)
def test_the_weights_count_where_they_will_lie(tmp_path: Path, keys: dict[str, str], places: dict[str, float]) -> None:
    folder = weights(tmp_path, w=("BF16", [1000, 1000], 2_000_000))
    found = dict(estimate(ModelSpec("m", model=folder, **keys), ["gpu2", "gpu0"]))  # type: ignore[arg-type]
    found["cpu"] -= PROGRAM
    assert found == {"cpu": 0, **{place: part * 2_000_000 for place, part in places.items()}}


def test_the_users_word_goes_before_the_files(tmp_path: Path) -> None:
    folder = weights(tmp_path, w=("BF16", [1000, 1000], 2_000_000))
    assert estimate(ModelSpec("m", model=folder, memory=5), []) == {"cpu": 5}
    assert estimate(ModelSpec("m", model=folder, memory=5), ["gpu0"]) == {"cpu": PROGRAM, "gpu0": 5}
    assert estimate(ModelSpec("m", engine="command", command=("x",), memory=5), ["gpu0"]) == {"cpu": 5}
