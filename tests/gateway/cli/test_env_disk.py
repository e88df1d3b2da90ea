from __future__ import annotations

import json
import os
import time
from pathlib import Path


def test_ls_names_the_models_and_the_disk_of_each_environment(home) -> None:
    assert home.bain("env", "sync", "fake").returncode == 0
    rows = json.loads(home.bain("env", "ls", "--json").stdout)
    (ours,) = [row for row in rows if "fake" in row["models"]]
    assert ours["disk_bytes"] > ours["own_bytes"] > 0
    assert ours["last_used"]
    table = home.bain("env", "ls", env={"COLUMNS": "300"}).stdout
    assert "slow" in table, "all models that share it"
    assert "each file counted once" in table


def test_gc_removes_what_the_configuration_does_not_want(empty_home, tmp_path: Path) -> None:
    file = tmp_path / "bain.yaml"
    settings = {"environments": {"e": {"packages": ["six==1.16.0"]}}}
    models = {"a": {"engine": "fake", "environment": "e"}, "b": {"engine": "fake"}}
    file.write_text(json.dumps({**settings, "models": models}))
    assert empty_home.bain("env", "sync", "a", "b").returncode == 0
    file.write_text(json.dumps({**settings, "models": {"b": {"engine": "fake"}}}))
    kept = json.loads(empty_home.bain("env", "gc", "--json").stdout)
    assert sorted(row["kept"] for row in kept) == ["a model wants it", "it was asked for minutes ago"]
    for used in (tmp_path / "environments" / "locks").glob("*.used"):
        os.utime(used, (time.time() - 3600,) * 2)
    planned = empty_home.bain("env", "gc", "--dry-run")
    assert "would go" in planned.stdout
    swept = empty_home.bain("env", "gc")
    assert swept.returncode == 0
    assert sorted(line.split(": ")[1] for line in swept.stdout.splitlines()) == [
        "kept, a model wants it",
        "removed",
    ]
    assert len(json.loads(empty_home.bain("env", "ls", "--json").stdout)) == 1


def test_gc_keeps_what_another_configuration_wants(empty_home, tmp_path: Path) -> None:
    other, own = tmp_path / "other.yaml", tmp_path / "own.yaml"
    settings = {"environments": {"e": {"packages": ["six==1.16.0"]}}}
    other.write_text(json.dumps({**settings, "models": {"a": {"engine": "fake", "environment": "e"}}}))
    own.write_text("version: 1\n")
    assert empty_home.bain("env", "sync", "a", "--config", str(other)).returncode == 0
    for used in (tmp_path / "environments" / "locks").glob("*.used"):
        os.utime(used, (time.time() - 3600,) * 2)

    kept = empty_home.bain("env", "gc", "--config", str(own))
    assert "kept, a model wants it" in kept.stdout
    assert kept.stderr.startswith(f"counted too: {other}\n")

    other.write_text("modles: {}\n")
    broken = empty_home.bain("env", "gc", "--config", str(own))
    assert broken.returncode == 3
    assert f"{other}:1:1: unknown key 'modles'" in broken.stderr

    other.unlink()
    assert "e " in (gone := empty_home.bain("env", "gc", "--config", str(own))).stdout
    assert "removed" in gone.stdout


def test_ls_shows_interpreters_that_are_used_as_they_are(empty_home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    named = {"own": {"python_executable": "/usr/bin/python3"}}
    file.write_text(json.dumps({"environments": named, "models": {"m": {"engine": "fake", "environment": "own"}}}))
    told = empty_home.bain("env", "ls", "--config", str(file))
    assert "own: /usr/bin/python3, used as it is by m" in told.stderr
    rows = json.loads(empty_home.bain("env", "ls", "--json", "--config", str(file)).stdout)
    assert rows == [{"name": "own", "digest": None, "python": "/usr/bin/python3", "models": ["m"]}]


def test_ls_goes_on_where_a_lock_cannot_be_read(empty_home, tmp_path: Path) -> None:
    file = tmp_path / "bain.yaml"
    models = {"a": {"engine": "fake"}, "b": {"engine": "fake", "environment": "e"}}
    file.write_text(json.dumps({"environments": {"e": {"lock": "absent.lock"}}, "models": models}))
    assert empty_home.bain("env", "sync", "a").returncode == 0
    done = empty_home.bain("env", "ls", "--json")
    assert [row["models"] for row in json.loads(done.stdout)] == [["a"]], done.stderr
    assert f"b: environment 'e': the lock {tmp_path / 'absent.lock'} does not exist" in done.stderr
