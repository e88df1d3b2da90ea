"""What a new configuration means for running workers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.workers.changes import changes

BASE = ModelSpec("base", model="/m")
ADAPTER = ModelSpec("adapter", model="/m", adapter="/a")
OTHER = ModelSpec("other", model="/o", environment="e")
SPEC = EnvironmentSpec("e", packages=("torch",))


def catalog(*models: ModelSpec, spec: EnvironmentSpec = SPEC) -> Catalog:
    return Catalog({m.name: m for m in models}, {"e": spec})


OLD = catalog(BASE, ADAPTER, OTHER)


def test_the_same_file_changes_nothing() -> None:
    found = changes(OLD, catalog(BASE, ADAPTER, OTHER))
    assert (found.ended, found.begun) == ((), {})
    assert found.kept == {BASE.worker_key: (BASE, ADAPTER), OTHER.worker_key: (OTHER,)}


def test_what_the_gateway_alone_decides_restarts_nothing() -> None:
    patient = replace(BASE, keep_alive=None, parallel=2, queue=3, preload=True, pinned=True, memory=5)
    found = changes(OLD, catalog(patient, ADAPTER, OTHER))
    assert found.begun == {}
    assert found.kept[BASE.worker_key] == (patient, ADAPTER)


@pytest.mark.parametrize(
    "models",
    [
        (replace(BASE, system_prompt="Be brief."), ADAPTER, OTHER),
        (BASE, replace(ADAPTER, adapter="/b"), OTHER),
        (BASE, OTHER),
        (BASE, ADAPTER, replace(ADAPTER, name="second"), OTHER),
    ],
)
def test_what_the_process_knows_restarts_it_after_its_predecessor(models: tuple[ModelSpec, ...]) -> None:
    found = changes(OLD, catalog(*models))
    assert found.ended == (BASE.worker_key,)
    assert [before for _, before in found.begun.values()] == [(BASE.worker_key,)]
    assert list(found.kept) == [OTHER.worker_key]


def test_a_new_place_of_the_weights_waits_for_the_worker_of_that_name() -> None:
    moved = replace(OTHER, model="/elsewhere")
    found = changes(OLD, catalog(BASE, ADAPTER, moved))
    assert found.begun == {moved.worker_key: ((moved,), (OTHER.worker_key,))}


def test_another_environment_restarts_its_models_alone() -> None:
    found = changes(OLD, catalog(BASE, ADAPTER, OTHER, spec=replace(SPEC, packages=("torch", "x"))))
    assert found.ended == (OTHER.worker_key,)


def test_models_come_and_go() -> None:
    new = ModelSpec("new", model="/n")
    found = changes(OLD, catalog(BASE, ADAPTER, new))
    assert found.ended == (OTHER.worker_key,)
    assert found.begun == {new.worker_key: ((new,), ())}
