"""`python_executable:`: an interpreter that the user made, verified and never changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from bainmarie.environments.build import WORKER_IMPORTS
from bainmarie.environments.environment import Environment
from bainmarie.environments.inspection import Inspection, inspect
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.errors import EnvironmentFailed

_OLDEST = (3, 9)


async def verify(spec: EnvironmentSpec, *, variables: Mapping[str, str], cwd: Path) -> Environment:
    """The environment of the spec's `python_executable`, as it is now.

    EnvironmentFailed where it is no interpreter, too old, the gateway's own, or lacks what the worker or the spec's
    `needs` import; then with the command that would add exactly that.
    """
    python = await asyncio.to_thread(_check_file, spec, cwd)
    needs = (*WORKER_IMPORTS, *spec.needs)
    found = await inspect(python, name=spec.name, variables=variables, cwd=python.parent, needs=needs)
    _check_identity(spec, python, found)
    missing = [problem.package for problem in found.problems if problem.kind == "missing"]
    if missing:
        command = shlex.join([str(python), "-m", "pip", "install", *missing])
        raise EnvironmentFailed(
            f"environment {spec.name!r}: {python} lacks {', '.join(missing)}",
            hint=f"It is used as it is and never changed. To add them yourself: {command}",
            code="package_missing",
        )
    return Environment(
        name=spec.name,
        digest=hashlib.sha256(os.fsencode(python)).hexdigest()[:20],
        python=python,
        versions=found.versions,
        python_version=found.python_version,
        architectures=found.architectures,
    )


def _check_file(spec: EnvironmentSpec, cwd: Path) -> Path:
    assert spec.python_executable
    python = cwd / Path(spec.python_executable).expanduser()
    where = f"environment {spec.name!r}: `python_executable: {spec.python_executable}`"
    hint = "Give the interpreter itself, such as /path/to/venv/bin/python."
    if python.is_dir():
        raise EnvironmentFailed(f"{where} is a directory", hint=_inside(python) or hint, code="not_python")
    if not python.exists():
        raise EnvironmentFailed(f"{where} does not exist", hint=hint, code="not_python")
    if not os.access(python, os.X_OK):
        raise EnvironmentFailed(f"{where} is not executable", hint=hint, code="not_python")
    return python


def _inside(folder: Path) -> str:
    """What to write instead of a folder: the interpreter in it, or in the environments below it; empty without any."""
    own = _interpreters(folder)
    below = [
        found
        for pattern in ("envs/*", "*", ".*")
        for path in sorted(folder.glob(pattern))
        for found in _interpreters(path)
    ]
    if own and below:
        return f"Write {own[0]}, or that of an environment in it: {', '.join(map(str, below))}."
    if own or below:
        return f"Write {', or '.join(map(str, own or below))}."
    if (folder / "conda-meta").is_dir():
        return f"It is a conda environment without Python: conda install -p {shlex.quote(str(folder))} python"
    return ""


def _interpreters(folder: Path) -> list[Path]:
    """The interpreter of the environment in that folder: a venv's or conda's, here or on Windows."""
    is_one = (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()
    places = ("bin/python", "Scripts/python.exe", "python.exe") if is_one else ()
    return [folder / place for place in places if (folder / place).exists()][:1]


def _check_identity(spec: EnvironmentSpec, python: Path, found: Inspection) -> None:
    if found.version < _OLDEST:
        raise EnvironmentFailed(
            f"environment {spec.name!r}: {python} is Python {found.python_version}; a worker needs 3.9 or newer",
            hint="Make the environment again with a newer Python.",
            code="python_too_old",
        )
    if found.prefix.resolve() == Path(sys.prefix).resolve():
        raise EnvironmentFailed(
            f"environment {spec.name!r}: {python} is the gateway's own environment, which is never used for a model",
            hint="Make one for the model, or leave `python_executable` out and let bainmarie build it.",
            code="gateway_environment",
        )
