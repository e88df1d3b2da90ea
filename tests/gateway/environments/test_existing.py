"""`python_executable:`: what is there is used as it is, or refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import uv

from bainmarie.environments.environment import interpreter_in
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress


def own(python: Path | str, *needs: str) -> EnvironmentSpec:
    return EnvironmentSpec(name="own", python_executable=str(python), needs=needs)


def make_bare(path: Path) -> None:
    """A virtual environment with nothing in it."""
    command = [uv.find_uv_bin(), "venv", "-q", "--no-project", "--python", sys.executable, str(path)]
    subprocess.run(command, check=True)


async def refused(home: Path, spec: EnvironmentSpec) -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as failure:
        await EnvironmentStore(home).ensure(spec, lambda progress: None)
    return failure.value


async def test_a_fit_one_is_used_and_not_changed(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    made = await EnvironmentStore(tmp_path / "other").ensure(spec, seen.append)
    assert made.path is not None
    before = sorted(path for path in made.path.rglob("*") if path.suffix != ".pyc")
    wish = replace(own(made.python, "six"), variables=(("A", "b"),))
    environment = await EnvironmentStore(tmp_path).ensure(wish, seen.append)
    assert environment.python == made.python
    assert environment.path is None
    assert environment.versions["six"] == "1.16.0"
    assert environment.variables == {"A": "b"}
    assert sorted(path for path in made.path.rglob("*") if path.suffix != ".pyc") == before


async def test_what_is_missing_is_listed_with_the_command(tmp_path: Path) -> None:
    make_bare(tmp_path / "v")
    python = interpreter_in(tmp_path / "v")
    error = await refused(tmp_path, own(python, "torch", "transformers"))
    assert error.code == "package_missing"
    assert "lacks starlette, uvicorn, jinja2, torch, transformers" in error.message
    assert f"{python} -m pip install starlette uvicorn jinja2 torch transformers" in error.hint


async def test_the_gateways_own_is_refused(tmp_path: Path) -> None:
    error = await refused(tmp_path, own(sys.executable))
    assert error.code == "gateway_environment"


async def test_no_interpreter_at_all(tmp_path: Path) -> None:
    assert "does not exist" in (await refused(tmp_path, own(tmp_path / "absent"))).message
    assert "is a directory" in (await refused(tmp_path, own(tmp_path))).message
    file = tmp_path / "python"
    file.write_text("#!/bin/sh\necho hello\n")
    assert "not executable" in (await refused(tmp_path, own(file))).message
    os.chmod(file, 0o755)
    error = await refused(tmp_path, own(file))
    assert error.code == "not_python"
    assert "does not answer as a Python interpreter" in error.message


async def test_directory_of_an_environment_names_the_interpreter_inside(tmp_path: Path) -> None:
    make_bare(tmp_path / "v")
    assert str(interpreter_in(tmp_path / "v")) in (await refused(tmp_path, own(tmp_path / "v"))).hint
