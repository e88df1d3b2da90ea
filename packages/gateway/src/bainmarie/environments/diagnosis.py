"""What a preflight found, as an EnvironmentFailed with the configuration line that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bainmarie.environments.needs import IMPORTS
from bainmarie.errors import EnvironmentFailed

_TOO_OLD = re.compile(
    r"requires? (?:the )?[`']?([\w-]+)[`']?(?: library)? ?(?:version )?>=? ?([\d.]+)"
    r"|([\w-]+) ?>=? ?([\d.]+)\S* is required"
)
_NO_NAME = re.compile(r"cannot import name '(\w+)' from '([\w]+)")
_BUILD = re.compile(
    r"libcu|libnv|libamdhip|libtorch_cuda|\bCUDA (?:driver|version|Setup)|undefined symbol", re.IGNORECASE
)


@dataclass(frozen=True)
class Problem:
    """Something that is not fit. `kind`: missing | broken | identity."""

    kind: str
    package: str
    message: str


class ImportsMissing(EnvironmentFailed):
    """Modules that nothing in the environment provides."""

    code = "package_missing"

    def __init__(self, message: str, *, hint: str, modules: tuple[str, ...]) -> None:
        super().__init__(message, hint=hint)
        self.modules = modules


def raise_problems(problems: Iterable[Problem], name: str, versions: Mapping[str, str]) -> None:
    """EnvironmentFailed that lists every problem; nothing where there is none."""
    found = list(problems)
    if not found:
        return
    texts = "; ".join(
        p.message if p.kind != "broken" else f"{p.package} cannot be imported: {p.message}" for p in found
    )
    message = f"environment {name!r} is not fit: {texts}"
    missing = tuple(dict.fromkeys(p.package for p in found if p.kind == "missing"))
    if missing and all(p.kind == "missing" for p in found):
        packages = ", ".join(IMPORTS.get(module, module) for module in missing)
        raise ImportsMissing(message, hint=f"Add {packages} to {_place(name)}.", modules=missing)
    first = next((p for p in found if p.kind != "missing"), found[0])
    code, hint = _diagnosed(first, name, versions)
    raise EnvironmentFailed(message, hint=hint, code=code)


def _diagnosed(problem: Problem, name: str, versions: Mapping[str, str]) -> tuple[str, str]:
    """Code and hint."""
    if problem.kind == "identity":
        return "wrong_interpreter", "Remove the environment's directory and start again."
    if match := _TOO_OLD.search(problem.message):
        package, least = match[1] or match[3], match[2] or match[4]
        there = versions.get(package.lower(), "not there")
        return "version_too_old", f"{package} is {there}: write `{package}>={least.rstrip('.')}` in {_place(name)}."
    if match := _NO_NAME.search(problem.message):
        other = f"{match[2]} {versions.get(match[2].replace('_', '-'), '')}".strip()
        ours = f"{problem.package} {versions.get(problem.package.replace('_', '-'), '')}".strip()
        return "version_too_old", f"{other} and {ours} do not fit: raise one of them in {_place(name)}."
    if _BUILD.search(problem.message):
        mend = f"set `environments: {name}: torch_backend:` (cpu, cu126, ...)"
        return "wrong_torch_build", f"Its compiled code does not fit this machine: {mend}."
    return "import_broken", f"Change the version of {problem.package}, or of what it builds on, in {_place(name)}."


def _place(name: str) -> str:
    if name == "auto":
        return "`packages:` of an environment that you name under `environments:`"
    return f"`environments: {name}: packages:`"
