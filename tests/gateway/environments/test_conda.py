"""`python_executable:` of a conda environment: a prefix of its own with bin/python and conda-meta, no pyvenv.cfg."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import uv

from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import EnvironmentFailed

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the layout differs on Windows")


def make_prefix(prefix: Path) -> Path:
    """As `conda create` leaves it: the interpreter and its library copied, not pointed to. Returns the interpreter."""
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(sys.base_prefix)
    library, python = prefix / "lib" / minor, prefix / "bin" / "python"
    for folder in (prefix / "bin", library / "site-packages", prefix / "conda-meta"):
        folder.mkdir(parents=True)
    shutil.copy2(os.path.realpath(sys.executable), prefix / "bin" / minor)
    python.symlink_to(minor)
    for path in (base / "lib").glob("libpython*"):
        (prefix / "lib" / path.name).symlink_to(path)
    for path in (base / "lib" / minor).iterdir():
        if path.name != "site-packages":
            (library / path.name).symlink_to(path)
    (prefix / "conda-meta" / "history").write_text("==> 2026-01-01 00:00:00 <==\n# cmd: conda create\n")
    return python


def install(python: Path, *packages: str) -> None:
    command = [uv.find_uv_bin(), "pip", "install", "-q", "--no-config", "--python", str(python), *packages]
    subprocess.run(command, check=True, env={k: v for k, v in os.environ.items() if not k.startswith("CONDA")})


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conda environment that can run the fake engine."""
    prefix = tmp_path_factory.mktemp("conda") / "envs" / "mine"
    install(make_prefix(prefix), "starlette", "uvicorn", "jinja2", "six==1.16.0")
    return prefix


@pytest.fixture(autouse=True)
def another_is_active(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The gateway is started from a shell in which conda's base is active."""
    for name, value in {
        "PREFIX": str(tmp_path),
        "DEFAULT_ENV": "base",
        "SHLVL": "1",
        "PYTHON_EXE": "/c/python",
    }.items():
        monkeypatch.setenv(f"CONDA_{name}", value)


def files(prefix: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in prefix.rglob("*") if not p.is_dir()}


async def ensure(home: Path, path: Path, *needs: str) -> Any:
    spec = EnvironmentSpec("own", python_executable=str(path), needs=needs)
    return await EnvironmentStore(home).ensure(spec, lambda progress: None)


async def test_it_is_verified_its_versions_recorded_and_nothing_changed(conda: Path, tmp_path: Path) -> None:
    before = files(conda)
    environment = await ensure(tmp_path, conda / "bin" / "python", "six")
    assert (environment.python, environment.path) == (conda / "bin" / "python", None)
    assert environment.versions["six"] == "1.16.0"
    assert {"starlette", "uvicorn", "jinja2"} <= set(environment.versions)
    assert environment.python_version == ".".join(map(str, sys.version_info[:3]))
    with pytest.raises(EnvironmentFailed, match="lacks torch") as failure:
        await ensure(tmp_path, conda / "bin" / "python", "torch")
    assert f"{conda}/bin/python -m pip install torch" in failure.value.hint
    assert files(conda) == before


def test_a_worker_runs_in_it_with_walls(conda: Path, start_gateway: Callable[[str], Any]) -> None:
    before = {name for name in files(conda) if not name.endswith(".pyc")}
    gateway = start_gateway(f"""
environments: {{own: {{python_executable: {conda}/bin/python}}}}
models: {{f: {{engine: fake, environment: own}}}}
""")
    assert gateway.chat("f", "hello")["choices"]
    worker = psutil.Process(gateway.status("f")["pid"])
    assert Path(worker.exe()).is_relative_to(conda)
    variables = worker.environ()
    assert not [name for name in variables if name.startswith(("CONDA", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"))]
    assert variables["PATH"].split(os.pathsep)[0] == str(conda / "bin")
    assert {name for name in files(conda) if not name.endswith(".pyc")} == before


async def test_a_folder_in_its_place_names_the_interpreters(conda: Path, tmp_path: Path) -> None:
    root = tmp_path / "miniconda"
    base, mine = make_prefix(root), make_prefix(root / "envs" / "mine")
    bare = root / "envs" / "bare"
    (bare / "conda-meta").mkdir(parents=True)
    for folder, hint in {
        root: f"Write {base}, or that of an environment in it: {mine}.",
        root / "envs": f"Write {mine}.",
        root / "envs" / "mine": f"Write {mine}.",
        bare: f"It is a conda environment without Python: conda install -p {bare} python",
    }.items():
        with pytest.raises(EnvironmentFailed, match="is a directory") as failure:
            await ensure(tmp_path, folder)
        assert failure.value.hint == hint
