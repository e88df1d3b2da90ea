"""`bain add`, `import`, `doctor`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bainmarie import carried

KEPT = """\
# my models
version: 1
models:
  fake: {engine: fake}   # for tests

  # the old one
  old:
    model: "org/old"     # quoted
tools: {approval: ask}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(KEPT)
    return path


def test_add_writes_an_entry_and_keeps_the_rest(empty_home, file: Path, tmp_path: Path) -> None:
    shutil.copytree(carried.demo_model("demo"), tmp_path / "models" / "My Model")
    added = empty_home.bain("add", "models/My Model", "--config", str(file), cwd=tmp_path)
    assert added.returncode == 0, added.stderr
    assert "my-model: a model of the family llama" in added.stdout
    lines = file.read_text().splitlines()
    assert [line for line in lines if line not in KEPT.splitlines()] == ["  my-model: {model: ./models/My Model}"]
    assert set(KEPT.splitlines()) <= set(lines)
    assert "my-model" in empty_home.bain("ls", "--config", str(file)).stdout
    again = empty_home.bain("add", "models/My Model", "--config", str(file), cwd=tmp_path)
    assert again.returncode == 2
    assert "--name" in again.stderr


def test_add_of_an_adapter(empty_home, file: Path) -> None:
    adapter, base = (str(carried.demo_model(name)) for name in ("demo-pirate", "demo"))
    told = empty_home.bain("add", adapter, "--base", base, "--name", "p", "--json", "--config", str(file))
    assert told.returncode == 0, told.stderr
    data = json.loads(told.stdout)
    assert (data["kind"], data["entry"]) == ("adapter", {"model": base, "adapter": adapter})
    assert "adapter" in json.loads(empty_home.bain("config", "show", "--config", str(file)).stdout)["models"]["p"]


def test_a_dry_run_writes_nothing(empty_home, file: Path) -> None:
    told = empty_home.bain("add", "org/name", "--dry-run", "--config", str(file))
    assert told.returncode == 0
    assert "would be written" in told.stdout
    assert file.read_text() == KEPT


def test_add_begins_a_configuration_in_the_home(empty_home) -> None:
    assert empty_home.bain("add", "org/Name-7B").returncode == 0
    assert "name-7b: {model: org/Name-7B}" in (empty_home.path / "bain.yaml").read_text()


def test_add_of_nothing(empty_home, tmp_path: Path) -> None:
    told = empty_home.bain("add", str(tmp_path / "absent"))
    assert told.returncode == 2
    assert "does not exist" in told.stderr


def test_import_prints_or_writes(empty_home, tmp_path: Path) -> None:
    old = tmp_path / "llm_backends.yaml"
    old.write_text("models:\n  a: {base_model: org/a, port: 8001, model_type: base}\n")
    told = empty_home.bain("import", str(old))
    assert told.returncode == 0
    assert told.stdout == "version: 1\nmodels:\n  a:\n    model: org/a\n    prompt: plain\n"
    assert "a.port" in told.stderr
    written = tmp_path / "new.yaml"
    assert empty_home.bain("import", str(old), "-o", str(written)).returncode == 0
    assert written.read_text() == told.stdout
    assert empty_home.bain("import", str(old), "-o", str(written)).returncode == 2
    assert empty_home.bain("config", "validate", str(written)).returncode == 0


def test_doctor_names_every_part(home) -> None:
    told = home.bain("doctor", "--json")
    subjects = [finding["subject"] for finding in json.loads(told.stdout)]
    assert subjects[:6] == ["uv", "home", "cache", "indexes", "process isolation", "accelerator"]
    assert told.returncode == (5 if any(f["grade"] == "bad" for f in json.loads(told.stdout)) else 0)


def test_doctor_tells_what_is_bad_with_its_remedy(empty_home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"models: {{lost: {{model: {tmp_path / 'absent'}}}}}\n")
    told = empty_home.bain("doctor", "--config", str(file), env={"UV_NO_INDEX": "1", "PIP_FIND_LINKS": ""})
    assert told.returncode == 5
    assert "BAD   indexes" in told.stdout
    lines = told.stdout.splitlines()
    (number,) = [n for n, line in enumerate(lines) if line.startswith("BAD   model:")]
    assert "does not exist" in lines[number]
    assert "`models: lost: model:`" in lines[number + 1]


def test_doctor_offline_says_where_packages_come_from(empty_home) -> None:
    told = empty_home.bain("doctor", env={"UV_OFFLINE": "1"})
    assert told.returncode == 0, told.stdout
    assert "note  indexes: UV_OFFLINE is set" in told.stdout


def test_names_are_made_of_plain_letters(empty_home, tmp_path: Path) -> None:
    folder = tmp_path / "Über Größe"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    added = empty_home.bain("add", str(folder), "--dry-run", "--json")
    assert json.loads(added.stdout)["name"] == "uber-grosse"
