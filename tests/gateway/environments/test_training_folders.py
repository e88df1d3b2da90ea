"""What training programs leave behind becomes the base and adapter that it is; what cannot stays as it was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bainmarie.catalog import ModelSpec
from bainmarie.environments.training_folders import resolved
from bainmarie.settings import load_settings

from .checkpoints import make_adapter, make_model

CARD = "---\nbase_model: {base}\nlibrary_name: peft\ntags:\n- lora\n---\n\n# A model card\n"


def read(model: Path | str, adapter: Path | None = None, base: str = "") -> tuple[str, str | None, str]:
    """(model, adapter, base) as resolved; resolving once more changes nothing."""
    once = resolved(ModelSpec("m", model=str(model), adapter=str(adapter) if adapter else None, base=base))
    assert resolved(once) == once
    return once.model, once.adapter, once.base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_model(tmp_path / "base")


def test_whole_models_and_hub_ids_stay_as_they_are(base: Path) -> None:
    assert read(base) == (str(base), None, "")
    assert read("org/base") == ("org/base", None, "")


def test_an_adapter_as_model_becomes_its_base_with_the_adapter(tmp_path: Path, base: Path) -> None:
    named = make_adapter(tmp_path / "named", base_model_name_or_path=str(base))
    assert read(named) == (str(base), str(named), "")
    hub = make_adapter(tmp_path / "hub", base_model_name_or_path="Qwen/Qwen3-8B")
    assert read(hub) == ("Qwen/Qwen3-8B", str(hub), "")


def test_a_relative_base_is_looked_for_from_the_adapter_upwards(tmp_path: Path, base: Path) -> None:
    adapter = make_adapter(tmp_path / "out" / "a", base_model_name_or_path="base")
    assert read(adapter) == (str(base), str(adapter), "")


@pytest.mark.parametrize("written", ["{base}", "\n- {base}", "'{base}'"])
def test_a_base_that_only_the_model_card_names(tmp_path: Path, base: Path, written: str) -> None:
    adapter = make_adapter(tmp_path / "a", base_model_name_or_path=None)
    (adapter / "README.md").write_text(CARD.format(base=written.format(base=base)))
    assert read(adapter) == (str(base), str(adapter), "")


def test_the_model_card_where_the_adapter_names_a_path_of_another_machine(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", base_model_name_or_path="/home/someone/train/qwen")
    assert read(adapter) == (str(adapter), None, "")
    (adapter / "README.md").write_text(CARD.format(base="Qwen/Qwen3-8B"))
    assert read(adapter) == ("Qwen/Qwen3-8B", str(adapter), "")


@pytest.mark.parametrize("card", ["", "no front matter", "---\nbase_model: [\n---\n", "---\n- a\n---\n", "---\nbase"])
def test_a_model_card_that_names_nothing(tmp_path: Path, card: str) -> None:
    adapter = make_adapter(tmp_path / "a", base_model_name_or_path=None)
    (adapter / "README.md").write_text(card)
    assert read(adapter) == (str(adapter), None, "")


def test_a_checkpoint_whose_adapter_lies_in_its_parent(tmp_path: Path, base: Path) -> None:
    run = make_adapter(tmp_path / "run", base_model_name_or_path=str(base))
    checkpoint = run / "checkpoint-500"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    assert read(checkpoint) == (str(base), str(run), "")
    assert read(base, checkpoint) == (str(base), str(run), "")


def test_adapter_checkpoints(tmp_path: Path, base: Path) -> None:
    first = make_adapter(tmp_path / "run" / "checkpoint-10", base_model_name_or_path=str(base))
    assert read(first) == (str(base), str(first), "")
    assert read(tmp_path / "run") == (str(base), str(first), "")
    assert read(base, tmp_path / "run") == (str(base), str(first), "")
    make_adapter(tmp_path / "run" / "checkpoint-20")
    assert read(tmp_path / "run") == (str(tmp_path / "run"), None, ""), "which of two is the person's choice"


def test_a_checkpoint_with_an_adapter_of_its_own_is_not_replaced(tmp_path: Path, base: Path) -> None:
    run = make_adapter(tmp_path / "run")
    checkpoint = make_adapter(run / "checkpoint-7")
    assert read(base, checkpoint) == (str(base), str(checkpoint), "")
    (checkpoint / "adapter_config.json").unlink()
    assert read(base, checkpoint) == (str(base), str(checkpoint), ""), "half an adapter is an error, not its parent"


def test_a_merge_without_config_names_what_completes_it(tmp_path: Path, base: Path) -> None:
    merged = make_model(tmp_path / "merged")
    (merged / "config.json").unlink()
    assert read(merged) == (str(merged), None, "")
    assert read(merged, base="org/base") == (str(merged), None, "org/base")
    (merged / "README.md").write_text(CARD.format(base=base))
    assert read(merged) == (str(merged), None, str(base))


def test_a_checkpoint_without_config_takes_its_runs(tmp_path: Path) -> None:
    run = make_model(tmp_path / "run")
    checkpoint = make_model(run / "checkpoint-5")
    (checkpoint / "config.json").unlink()
    assert read(checkpoint) == (str(checkpoint), None, str(run))


def test_an_adapter_named_as_a_model_shares_the_worker_of_its_base(tmp_path: Path, base: Path) -> None:
    adapter = make_adapter(tmp_path / "a", base_model_name_or_path=str(base))
    file = tmp_path / "bain.yaml"
    file.write_text(json.dumps({"models": {"base": {"model": "./base"}, "tuned": {"model": "./a"}}}))
    catalog = load_settings(file, {}).catalog()
    assert catalog.get("tuned").adapter == str(adapter)
    assert catalog.get("tuned").worker_key == catalog.get("base").worker_key
    shutil.rmtree(base)
    assert load_settings(file, {}).catalog().get("tuned").adapter is None
