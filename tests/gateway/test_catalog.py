"""Which models share a worker, and which workers share files of weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bainmarie.catalog import Catalog, ModelSpec

BASE = ModelSpec("base", model="/models/base")


def elsewhere(**other: object) -> list[str]:
    catalog = Catalog({"base": BASE, "other": replace(BASE, name="other", **other)})
    return [model.name for model in catalog.weights_elsewhere(BASE)]


@pytest.mark.parametrize("other", [{"context": 512}, {"environment": "old"}, {"options": (("speculate", False),)}])
def test_workers_that_differ_in_other_things_map_the_same_weights(other) -> None:
    assert elsewhere(**other) == ["other"]


@pytest.mark.parametrize(
    "other",
    [
        {"adapter": "/models/adapter"},  # the same worker
        {"model": "/models/another"},
        {"dtype": "float32", "context": 512},
        {"quantization": "int8"},
        {"device": "cuda:0"},
        {"engine": "fake"},
    ],
)
def test_one_worker_and_workers_with_a_copy_of_their_own_share_nothing(other) -> None:
    assert elsewhere(**other) == []
