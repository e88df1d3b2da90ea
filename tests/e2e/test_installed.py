"""bainmarie as its users have it: installed from its wheel, and replaced by a newer one while it serves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import ROOT, Gateway, clean_environ, launch_gateway
from uv import find_uv_bin

from bainmarie import carried
from bainmarie.environments.environment import Environment, interpreter_in, read_marker
from bainmarie.environments.worker_packages import carried_packages

CONFIGURATION = json.dumps(
    {
        "version": 1,
        "environments": {"e": {"packages": ["six==1.16.0"]}},
        "models": {"f": {"engine": "fake"}, "g": {"engine": "fake", "environment": "e"}},
    }
)


def uv(*arguments: Path | str) -> None:
    done = subprocess.run(
        [find_uv_bin(), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr


def build(checkout: Path, target: Path) -> list[Path]:
    """The wheels that make an installation: the gateway's, and that of the protocol which it needs."""
    for package in ("gateway", "protocol"):
        uv("build", "--wheel", "--quiet", "--out-dir", target, checkout / "packages" / package)
    return sorted(target.glob("*.whl"))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(ROOT, tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def newer_wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of another release: one line more in the worker's source."""
    checkout = tmp_path_factory.mktemp("checkout")
    for package in ("gateway", "protocol", "worker"):
        shutil.copytree(ROOT / "packages" / package, checkout / "packages" / package)
    (checkout / "models").symlink_to(ROOT / "models")
    with (checkout / "packages" / "worker" / "src" / "bainmarie_worker" / "__init__.py").open("a") as file:
        file.write("NEWER = True\n")
    return build(checkout, tmp_path_factory.mktemp("newer-wheels"))


@pytest.fixture
def venv(tmp_path: Path, wheels: list[Path]) -> Path:
    path = tmp_path / "venv"
    uv("venv", "--quiet", "--no-project", "--python", sys.executable, path)
    uv("pip", "sync", "--quiet", "--require-hashes", "--python", path, ROOT / "requirements.lock")
    uv("pip", "install", "--quiet", "--no-deps", "--python", path, *wheels)
    return path


@pytest.fixture
def bain(venv: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The command line of that installation, in a home of its own; no gateway is left there."""

    def run(*arguments: str) -> str:
        environ = {**clean_environ(tmp_path / "home"), "BAIN_CONFIG": str(tmp_path / "bain.yaml")}
        command = [str(venv / "bin" / "bain"), *arguments]
        done = subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    run("down")


def environment_of(gateway: Gateway, model: str) -> Environment:
    digest = gateway.status(model)["environment_digest"]
    found = read_marker(gateway.home / "environments" / digest)
    assert found is not None
    return found


def ask(gateway: Gateway, model: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return gateway.http.post("/v1/chat/completions", json=body).json()


def is_newer(environment: Environment) -> bool:
    command = [str(environment.python), "-I", "-c", "import bainmarie_worker as w; print(hasattr(w, 'NEWER'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_the_gateways_wheel_carries_the_workers_and_the_models(wheels: list[Path]) -> None:
    with zipfile.ZipFile(wheels[0]) as archive:
        inside = {name: archive.read(name) for name in archive.namelist() if "/_carried/" in name}
    ours = {f"bainmarie/_carried/wheels/{wheel.name}": wheel.read_bytes() for wheel in carried.worker_wheels()}
    assert len(ours) == 2
    assert {name: inside[name] for name in ours} == ours, "the very same that the checkout builds for itself"
    assert not [name for name in inside if name.endswith(".py") and "/models/" not in name]
    for name in ("demo", "demo-pirate", "demo-pirate-merged"):
        for file in carried.demo_model(name).glob("*.*"):
            assert inside[f"bainmarie/_carried/models/{name}/{file.name}"] == file.read_bytes()


def test_a_newer_one_is_installed_while_it_serves(
    venv: Path, bain: Callable[..., str], newer_wheels: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    gateway = launch_gateway(tmp_path / "home", tmp_path, CONFIGURATION, venv / "bin" / "bain")
    assert ask(gateway, "f")["choices"]
    old = environment_of(gateway, "f")
    assert old.worker == carried_packages().digest
    worker = psutil.Process(gateway.status("f")["pid"])
    assert worker.cmdline()[:2] == [str(interpreter_in(old.path or Path())), "-I"]

    uv("pip", "install", "--quiet", "--no-deps", "--reinstall", "--python", venv, *newer_wheels)
    assert ask(gateway, "f")["choices"]
    gateway.http.post("/models/unload", json={"model": "f"}).raise_for_status()
    assert ask(gateway, "f")["choices"], "a new start in an environment that is there"
    assert environment_of(gateway, "f") == old
    assert ask(gateway, "g")["error"]["code"] == "bainmarie_replaced"
    pid = gateway.status("f")["pid"]

    assert "in place of pid" in bain("up", "--replace", "--detach")
    assert gateway.process.wait(60) == 0
    assert gateway.status("f")["pid"] == pid, "it is adopted by the newer one"
    assert ask(gateway, "f")["choices"]
    assert environment_of(gateway, "f") == old
    assert ask(gateway, "g")["choices"]
    assert is_newer(environment_of(gateway, "g"))
    kept = {verdict["digest"]: verdict["kept"] for verdict in json.loads(bain("env", "gc", "--json"))}
    assert "runs in it" in kept[old.digest]

    gateway.http.post("/models/unload", json={"model": "f"}).raise_for_status()
    assert ask(gateway, "f")["choices"]
    new = environment_of(gateway, "f")
    assert (new.lock, new.digest == old.digest) == (old.lock, False)
    assert is_newer(new)
    assert not is_newer(old)
    gateway.http.close()
    for stream in (gateway.process.stdin, gateway.process.stdout):
        assert stream is not None
        stream.close()
