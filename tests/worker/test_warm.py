"""What the engine is given once the weights are in."""

from __future__ import annotations

import pytest

from bainmarie_protocol import WorkerConfig
from bainmarie_worker.warm import load_and_warm

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves


@pytest.mark.parametrize(
    ("shares", "options", "prepack"),
    [(False, {}, True), (True, {}, False), (True, {"prepack": True}, True), (False, {"prepack": False}, False)],
)
def test_weights_that_others_map_are_not_copied_unless_asked_for(family, shares, options, prepack):
    options = {**options, "path": "packed"}
    config = WorkerConfig(
        "m", "transformers", str(family.base), (), device="cpu", shares_weights=shares, options=options
    )
    assert load_and_warm(config, lambda step: None).info["prepack"] is prepack


def test_compiled_code_reads_weights_where_they_lie(family):
    config = WorkerConfig("m", "transformers", str(family.base), (), device="cpu", options={"path": "fused"})
    info = load_and_warm(config, lambda step: None).info
    assert (info["engine_path"], info["prepack"]) == ("fused", False)
