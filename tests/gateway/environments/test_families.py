"""The table of families against the transformers that this release is tested with."""

from __future__ import annotations

from pathlib import Path

import pytest

from bainmarie import carried
from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.environments.families import first_release, known_types, last_release, plain_torch_since
from bainmarie.environments.needs import TRANSFORMERS
from bainmarie.environments.store import EnvironmentStore
from bainmarie.environments.wish import counted, wish


@pytest.mark.timeout(600)
async def test_the_table_agrees_with_the_tested_release(kept_home: Path) -> None:
    demo = ModelSpec("demo", model=str(carried.demo_model("demo")))
    adapter = ModelSpec("a", model=demo.model, adapter=str(carried.demo_model("demo-pirate")))
    spec = wish(Catalog({}), counted([demo, adapter]))
    environment = await EnvironmentStore(kept_home).ensure(spec, lambda progress: None)
    assert environment.versions["transformers"] == TRANSFORMERS
    known = set(environment.architectures)
    assert len(known) > 500
    dropped = {kind for kind in known_types() if last_release(kind)}
    assert known_types() - dropped <= known
    assert not dropped & known
    assert len(known_types()) > 250


def test_releases_of_single_families() -> None:
    assert [first_release(kind) for kind in ("qwen3", "nemotron_h", "nobody")] == ["4.51", "5.3", ""]
    assert [last_release(kind) for kind in ("transfo-xl", "llama")] == ["4.57", ""]
    assert [plain_torch_since(kind) for kind in ("jamba", "falcon_h1", "llama")] == ["5.15", "4.53", ""]
    assert {kind for kind in known_types() if plain_torch_since(kind)} >= {"mamba", "mamba2", "qwen3_next", "zamba2"}
