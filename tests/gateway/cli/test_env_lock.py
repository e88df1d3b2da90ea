from __future__ import annotations

import asyncio
import json
from pathlib import Path

from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.environments.worker_packages import WorkerPackages, carried_packages


def test_explain_names_every_package_with_reason_and_source(home) -> None:
    told = home.bain("env", "explain", "demo-pirate", "--json")
    assert told.returncode == 0, told.stderr
    rows = {row["requirement"]: row for row in json.loads(told.stdout)["packages"]}
    assert {"torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "jinja2"} <= set(rows)
    assert rows["peft==0.21.2"]["source"] == "adapter_config.json"
    assert all(row["why"] for row in rows.values())
    table = home.bain("env", "explain", "demo-pirate", env={"COLUMNS": "200"}).stdout
    assert "model demo-pirate has an adapter" in table


def test_explain_of_a_named_environment(home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    named = {"small": {"packages": ["six==1.16.0"]}, "own": {"python_executable": "/usr/bin/python3"}}
    models = {"a": {"engine": "fake", "environment": "small"}, "b": {"engine": "fake", "environment": "own"}}
    file.write_text(json.dumps({"environments": named, "models": models}))
    rows = json.loads(home.bain("env", "explain", "a", "--json", "--config", str(file)).stdout)["packages"]
    assert rows[0] == {
        "requirement": "six==1.16.0",
        "version": None,
        "why": "`environments: small: packages`",
        "source": "the configuration",
    }
    assert (rows[-1]["requirement"], rows[-1]["source"]) == ("bainmarie-worker==0.1.0", "bainmarie")
    own = home.bain("env", "explain", "b", "--config", str(file), env={"COLUMNS": "200"}).stdout
    assert "used as it is" in own
    assert "bainmarie-worker==0.1.0, this bainmarie's own, is put on the worker's import path" in own


def test_an_unknown_model_is_not_explained(home) -> None:
    assert home.bain("env", "explain", "nobody").returncode == 4


def test_a_lock_is_exported_and_built_from_with_the_same_digest(home, tmp_path: Path) -> None:
    exported = home.bain("env", "lock", "fake")
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout == home.bain("env", "lock", "fake").stdout
    (tmp_path / "fake.lock").write_text(exported.stdout)
    file = tmp_path / "own.yaml"
    file.write_text("environments: {kept: {lock: fake.lock}}\nmodels: {again: {engine: fake, environment: kept}}\n")
    ours = home.bain("env", "sync", "fake").stdout.split(": ")[1]
    theirs = home.bain("env", "sync", "again", "--config", str(file))
    assert theirs.returncode == 0, theirs.stderr
    assert theirs.stdout.split(": ")[1] == ours


def test_diff_shows_what_differs_alone(home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    named = {"a": {"packages": ["six==1.16.0"]}, "b": {"packages": ["six==1.17.0"]}}
    models = {name: {"engine": "fake", "environment": name} for name in named}
    file.write_text(json.dumps({"environments": named, "models": models}))
    told = home.bain("env", "diff", "a", "b", "--json", "--config", str(file))
    assert json.loads(told.stdout) == [{"package": "six", "a": "1.16.0", "b": "1.17.0"}]
    same = home.bain("env", "diff", "a", "a", "--config", str(file))
    assert (same.returncode, same.stdout) == (0, "")
    assert "the same versions" in same.stderr
    assert home.bain("env", "diff", "a", "ffffff", "--config", str(file)).returncode == 4


def test_two_that_differ_in_the_worker_alone(empty_home, tmp_path: Path, newer: WorkerPackages) -> None:
    file = tmp_path / "bain.yaml"
    named = {"e": {"packages": ["six==1.16.0"]}}
    file.write_text(json.dumps({"environments": named, "models": {"m": {"engine": "fake", "environment": "e"}}}))
    spec = EnvironmentSpec(name="e", packages=("six==1.16.0",))
    another = asyncio.run(EnvironmentStore(tmp_path, worker=newer).ensure(spec, lambda progress: None))
    assert "worker of another bainmarie" in empty_home.bain("doctor", env={"UV_OFFLINE": "1"}).stdout
    assert empty_home.bain("env", "sync", "m").returncode == 0
    ours, theirs = (f"0.1.0 {worker.digest[:12]}" for worker in (carried_packages(), newer))
    expected = [{"package": "bainmarie-worker", "a": ours, "b": theirs}]
    assert json.loads(empty_home.bain("env", "diff", "m", another.digest, "--json").stdout) == expected
    rows = {row["digest"]: row for row in json.loads(empty_home.bain("env", "ls", "--json").stdout)}
    (used,) = (row for row in rows.values() if row["models"] == ["m"])
    assert (used["lock"], used["worker"]) == (another.lock, carried_packages().digest)
    assert rows[another.digest]["worker"] == newer.digest
    assert json.loads(empty_home.bain("env", "diff", used["digest"], another.digest, "--json").stdout) == expected
    (tmp_path / "m.lock").write_text(empty_home.bain("env", "lock", "m").stdout)
    for name in ("m", used["digest"], another.digest):
        told = empty_home.bain("env", "diff", name, str(tmp_path / "m.lock"))
        assert "hold the same versions" in told.stderr, "a lock knows of no worker"
    table = empty_home.bain("env", "ls", env={"COLUMNS": "300"}).stdout
    assert "0.1.0*" in table
    assert "* another bainmarie's" in table


def test_a_lock_beside_packages_is_a_mistake(home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("environments:\n  e:\n    lock: x.lock\n    packages: [six]\n")
    told = home.bain("config", "validate", str(file))
    assert told.returncode == 3
    assert "own.yaml:4:5: environments.e has both 'lock' and 'packages'" in told.stderr


def test_an_environment_travels_as_one_file(home, empty_home, tmp_path: Path) -> None:
    bundle = tmp_path / "fake.tar"
    packed = home.bain("env", "pack", "fake", "-o", str(bundle))
    assert (packed.returncode, packed.stdout) == (0, f"{bundle}\n"), packed.stderr
    file = tmp_path / "own.yaml"
    file.write_text("models: {again: {engine: fake}}\n")
    offline = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cold"), "BAIN_CONFIG": str(file)}
    made = empty_home.bain("env", "unpack", str(bundle), env=offline)
    assert made.returncode == 0, made.stderr
    synced = empty_home.bain("env", "sync", "again", env=offline)
    assert synced.stdout.split(": ")[1] == made.stdout.split(": ")[1]
