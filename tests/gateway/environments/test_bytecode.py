"""Compiled files that environments share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore


def compiled(path: Path) -> dict[str, int]:
    """Inode of each compiled file, by its place in the environment."""
    return {str(file.relative_to(path)): file.stat().st_ino for file in path.rglob("*.pyc")}


def output(python: Path, program: str) -> str:
    return subprocess.run([str(python), "-I", "-c", program], capture_output=True, text=True, check=True).stdout


async def test_the_second_environment_has_the_firsts_compiled_files(
    tmp_path: Path, spec: EnvironmentSpec, make_wheel: Callable[..., Path]
) -> None:
    wheels = make_wheel("peft", "1.0", source="def where():\n    return where.__code__.co_filename\n")
    store = EnvironmentStore(tmp_path)
    one = replace(spec, packages=("peft",), find_links=(str(wheels),))
    first = (await store.ensure(one, lambda progress: None)).path
    environment = await store.ensure(replace(one, packages=("peft", "six==1.17.0")), lambda progress: None)
    assert first is not None
    assert environment.path is not None
    ours, theirs = compiled(environment.path), compiled(first)
    (peft,) = [place for place in theirs if "peft" in place]
    assert ours[peft] == theirs[peft]
    assert sum(ours[place] == theirs[place] for place in theirs) > 50
    told = output(environment.python, "import peft; print(peft.where())")
    assert told.startswith(str(environment.path)), "a shared file still names its own place"
    assert compiled(environment.path)[peft] == theirs[peft], "and is not compiled again"


async def test_another_source_has_its_own(
    tmp_path: Path, spec: EnvironmentSpec, make_wheel: Callable[..., Path]
) -> None:
    store = EnvironmentStore(tmp_path)
    paths = []
    for version in ("1.0", "2.0"):
        wheels = make_wheel("peft", version)
        wish = replace(spec, packages=(f"peft=={version}",), find_links=(str(wheels),))
        environment = await store.ensure(wish, lambda progress: None)
        assert environment.path is not None
        paths.append(environment.path)
        assert output(environment.python, "import peft; print(peft.__version__)") == f"{version}\n"
    (place,) = [place for place in compiled(paths[0]) if "peft" in place]
    assert compiled(paths[0])[place] != compiled(paths[1])[place]
