"""Asking an interpreter what it is and what it can import: the gateway's side of `preflight.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bainmarie.environments.commands import Finished, run_command
from bainmarie.environments.diagnosis import Problem
from bainmarie.errors import EnvironmentFailed

_SCRIPT = Path(__file__).with_name("preflight.py")
_LIMIT = 900.0
"""Seconds for all imports together. Torch and transformers take ten cold, a hundred on a core shared with others."""


@dataclass(frozen=True)
class Inspection:
    """What an interpreter said about itself."""

    prefix: Path
    base_prefix: Path
    version: tuple[int, ...]
    versions: Mapping[str, str]
    accelerator: str
    torch_build: str
    architectures: tuple[str, ...]
    problems: tuple[Problem, ...]
    sought: tuple[str, ...] = ()
    """Top-level modules and distributions that the imports have looked for, found or not."""

    @property
    def python_version(self) -> str:
        return ".".join(map(str, self.version))


async def inspect(
    python: Path,
    *,
    name: str,
    variables: Mapping[str, str],
    cwd: Path,
    prefix: Path | None = None,
    imports: Sequence[str] = (),
    needs: Sequence[str] = (),
    keep_open: Sequence[int] = (),
) -> Inspection:
    """Run the preflight with that interpreter. EnvironmentFailed (code not_python) if it does not answer."""
    question = {"prefix": str(prefix or ""), "imports": list(imports), "needs": list(needs)}
    command = (str(python), "-I", str(_SCRIPT), json.dumps(question))
    try:
        async with asyncio.timeout(_LIMIT):
            answer = await run_command(command, variables=variables, cwd=cwd, keep_open=keep_open)
    except TimeoutError:
        raise EnvironmentFailed(
            f"environment {name!r}: importing {', '.join(imports)} did not end within {_LIMIT:.0f} s",
            hint="Start it again; if it hangs again, one of these packages does not work on this machine.",
            code="preflight_timeout",
        ) from None
    return _parse(answer, python, name)


def _parse(answer: Finished, python: Path, name: str) -> Inspection:
    try:
        data = json.loads(answer.stdout.strip().splitlines()[-1])
        return Inspection(
            prefix=Path(data["prefix"]),
            base_prefix=Path(data["base_prefix"]),
            version=tuple(data["version"]),
            versions=data["versions"],
            accelerator=data["accelerator"],
            torch_build=data["torch_build"],
            architectures=tuple(data["architectures"]),
            problems=tuple(Problem(**problem) for problem in data["problems"]),
            sought=tuple(data["sought"]),
        )
    except (ValueError, LookupError, TypeError):
        last = (answer.stderr.strip().splitlines() or [f"exit code {answer.code}, no output"])[-1]
        raise EnvironmentFailed(
            f"environment {name!r}: {python} does not answer as a Python interpreter: {last}",
            hint="Give the path of a Python 3.9 or newer, such as /path/to/venv/bin/python.",
            code="not_python",
            log_tail=answer.stderr[-2000:],
        ) from None
