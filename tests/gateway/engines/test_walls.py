"""Walls: nothing of the gateway's own surroundings reaches a worker or the making of its environment."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bainmarie.catalog import ModelSpec
from bainmarie.engines import engine
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore

POISON = """
import os, sys
with open({record!r}, "a") as file:
    file.write(f"{{os.path.abspath(sys.executable)}} {{__name__}}\\n")
__version__ = "6.6.6"
"""
TOLD = """
import bainmarie_protocol, bainmarie_worker, importlib.metadata, json, sys, transformers
print(json.dumps([sys.path, transformers.__version__, importlib.metadata.version("transformers"),
                  sys.flags.isolated, sys.flags.no_user_site, sorted(sys.modules),
                  [bainmarie_worker.__file__, bainmarie_protocol.__file__]]))
"""


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Surroundings in which every way in is poisoned; returns the file in which poison that ran writes its name."""
    record = tmp_path / "leaked"
    record.touch()
    source = POISON.format(record=str(record))
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    home, path, cwd = (tmp_path / name for name in ("user", "path", "cwd"))
    user_site = home / ".local" / "lib" / minor / "site-packages"
    for folder in (user_site, path, cwd):
        (folder / "transformers").mkdir(parents=True)
        (folder / "transformers" / "__init__.py").write_text(source)
        for name in ("sitecustomize", "usercustomize", "torch", "starlette_leak", "jinja2_leak"):
            (folder / f"{name}.py").write_text(source)
    (user_site / "leak.pth").write_text("import usercustomize\n")
    uv_cache = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    monkeypatch.setenv("UV_CACHE_DIR", uv_cache)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(path))
    monkeypatch.setenv("PYTHONUSERBASE", str(home / ".local"))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(cwd)
    return record


def test_the_poison_works(poisoned: Path) -> None:
    program = "import transformers; print(transformers.__version__)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "6.6.6\n"
    assert {line.split()[1] for line in poisoned.read_text().splitlines()} >= {"sitecustomize", "transformers"}


def test_the_workers_path_and_versions_are_the_environments_alone(
    tmp_path: Path, make_wheel: Callable[..., Path], poisoned: Path
) -> None:
    source = "__version__ = '1.0'\nAutoModelForCausalLM = AutoTokenizer = None\n"
    wheels = make_wheel("transformers", "1.0", source=source)
    spec = EnvironmentSpec(name="small", packages=("transformers==1.0",), find_links=(str(wheels),))
    home = tmp_path / "home"
    environment = asyncio.run(EnvironmentStore(home).ensure(spec, lambda progress: None))
    assert environment.path is not None
    (home / "transformers").mkdir()
    (home / "transformers" / "__init__.py").write_text("__version__ = 'from the working directory'\n")
    launch = engine("fake")([ModelSpec("m", engine="fake")], environment, home, os.environ)
    *interpreter, option, module = launch.argv
    assert (option, module) == ("-m", "bainmarie_worker")
    command = [*interpreter, "-c", TOLD]
    told = subprocess.run(command, env=dict(launch.env), cwd=launch.cwd, capture_output=True, text=True, check=True)
    path, version, installed, isolated, no_user_site, modules, ours = json.loads(told.stdout)
    assert (version, installed, isolated, no_user_site) == ("1.0", "1.0", 1, 1)
    assert not {"usercustomize", "torch"} & set(modules)
    assert all(Path(file).is_relative_to(environment.path) for file in ours)
    base = Path(os.path.realpath(environment.python)).parents[1]
    for entry in path:
        inside = Path(entry).is_relative_to(environment.path)
        assert inside or (Path(entry).is_relative_to(base) and "site-packages" not in entry), entry
    assert poisoned.read_text() == "", "nor did uv, the preflight or the gateway's own small programs run poison"


def test_a_poisoned_gateway_starts_clean_workers(poisoned: Path, start_gateway: Callable[[str], object]) -> None:
    gateway = start_gateway("models: {f: {engine: fake}}\n")
    assert gateway.chat("f", "hello")["choices"]  # type: ignore[attr-defined]
    ran_in = {line.split()[0] for line in poisoned.read_text().splitlines()}
    assert ran_in <= {os.path.abspath(sys.executable)}, "the command line alone, which was started like that"
    pid = gateway.status("f")["pid"]  # type: ignore[attr-defined]
    names = {part.split(b"=")[0].decode() for part in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if part}
    assert not {name for name in names if name.startswith(("PYTHON", "VIRTUAL_ENV", "CONDA"))} - {"PYTHONUNBUFFERED"}
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    mapped = {line.split(None, 5)[5].strip() for line in maps if "/" in line}
    assert mapped
    assert not [file for file in mapped if file.startswith(sys.prefix)], "nothing of the gateway's environment"
