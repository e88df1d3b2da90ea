"""Finding a Python interpreter of a wished version."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bainmarie.environments.commands import run_command
from bainmarie.environments.failures import cause_lines, one_line
from bainmarie.errors import EnvironmentFailed

_IDENTITY = (
    "import json, sys, sysconfig; "
    "print(json.dumps([sys.executable, '.'.join(map(str, sys.version_info[:3])), "
    "sys.implementation.cache_tag or sys.implementation.name, sysconfig.get_platform()]))"
)
_OLDEST = (3, 9)
_PLAIN_VERSION = re.compile(r"3\.\d+(\.\d+)?")


@dataclass(frozen=True)
class Interpreter:
    """A base interpreter to make environments from."""

    path: Path
    version: str
    """Three numbers."""
    tag: str
    """Implementation and version, such as cpython-311."""
    platform: str
    """As sysconfig has it, such as linux-x86_64."""

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])


def wished_version(python: str) -> str:
    """A spec's `python`, or the gateway's own version where it says nothing."""
    return python.strip() or f"{sys.version_info[0]}.{sys.version_info[1]}"


async def find_interpreter(python: str, *, uv: str, variables: Mapping[str, str], cwd: Path) -> Interpreter:
    """An interpreter of that version, never one inside an environment.

    Looks at the gateway's base interpreter, where uv looks, under pyenv, and last lets uv download one if the user's
    settings allow it. EnvironmentFailed (code python_not_found) names the versions that are there.
    """
    wish = wished_version(python)
    plain = _PLAIN_VERSION.fullmatch(wish)
    if plain and tuple(map(int, wish.split(".")[:2])) < _OLDEST:
        raise EnvironmentFailed(
            f"`python: {wish!r}` is too old: a worker needs Python 3.9 or newer",
            hint=f"Write a newer one, or leave it out: then it is {wished_version('')}.",
            code="python_too_old",
        )
    if plain:
        own = Path(getattr(sys, "_base_executable", "") or sys.executable)
        if (found := await _identify(own, variables, cwd)) and _fits(found, wish):
            return found
    command = (uv, "python", "find", "--no-project", "--system", "--no-python-downloads", wish)
    search = await run_command(command, variables=variables, cwd=cwd)
    if search.code == 0 and (found := await _identify(Path(search.stdout.strip()), variables, cwd)):
        return found
    for candidate in await asyncio.to_thread(_pyenv, wish, variables):
        if (found := await _identify(candidate, variables, cwd)) and _fits(found, wish):
            return found
    return await _download(wish, uv=uv, variables=variables, cwd=cwd)


async def _download(wish: str, *, uv: str, variables: Mapping[str, str], cwd: Path) -> Interpreter:
    install = await run_command((uv, "python", "install", "--no-bin", wish), variables=variables, cwd=cwd)
    if install.code == 0:
        command = (uv, "python", "find", "--no-project", "--managed-python", "--no-python-downloads", wish)
        search = await run_command(command, variables=variables, cwd=cwd)
        if search.code == 0 and (found := await _identify(Path(search.stdout.strip()), variables, cwd)):
            return found
    there = await _available(uv, variables, cwd)
    cause = one_line(cause_lines(install.stderr))
    raise EnvironmentFailed(
        f"there is no Python {wish} on this machine, and uv could not install one: {cause}",
        hint=f"Found here: {', '.join(there)}. Put one of them into `python:`, or install Python {wish}.",
        code="python_not_found",
    )


async def _available(uv: str, variables: Mapping[str, str], cwd: Path) -> list[str]:
    """Versions that could be asked for, newest first; the gateway's own is always among them."""
    command = (uv, "python", "list", "--only-installed", "--output-format", "json")
    listing = await run_command(command, variables=variables, cwd=cwd)
    versions = {".".join(map(str, sys.version_info[:3]))}
    if listing.code == 0:
        versions |= {str(entry["version"]) for entry in json.loads(listing.stdout)}
    versions |= {path.parents[1].name for path in await asyncio.to_thread(_pyenv, "3", variables)}
    numbered = [version for version in versions if re.fullmatch(r"3(\.\d+){2}", version)]
    numbers = sorted((tuple(map(int, version.split("."))) for version in numbered), reverse=True)
    return [".".join(map(str, number)) for number in numbers if number >= _OLDEST]


async def _identify(path: Path, variables: Mapping[str, str], cwd: Path) -> Interpreter | None:
    try:
        answer = await run_command((str(path), "-I", "-S", "-c", _IDENTITY), variables=variables, cwd=cwd)
        executable, version, tag, platform = json.loads(answer.stdout)
    except ValueError:
        return None
    return Interpreter(Path(executable), version, tag, platform)


def _fits(interpreter: Interpreter, wish: str) -> bool:
    return f"{interpreter.version}.".startswith(f"{wish}.")


def _pyenv(wish: str, variables: Mapping[str, str]) -> list[Path]:
    """pyenv's interpreters of that version, newest first. uv sees only pyenv's shims, which fail for all but one."""
    root = variables.get("PYENV_ROOT") or (f"{variables['HOME']}/.pyenv" if variables.get("HOME") else "")
    if not root or os.name != "posix":
        return []
    names = [
        path
        for path in Path(root, "versions").glob("*/bin/python")
        if f"{path.parents[1].name}.".startswith(f"{wish}.")
    ]
    return sorted(names, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parents[1].name)], reverse=True)
