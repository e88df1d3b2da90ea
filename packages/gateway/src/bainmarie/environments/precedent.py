"""An environment whose imports were tried already: another one, in which they met the very same packages.

What an import does follows from the interpreter and from what it looks for. A preflight writes down every module and
distribution that its imports have looked for, found or not (`sought`). Where two environments differ only in packages
that nothing has looked for, the imports of the one tell those of the other, and take seconds less. What the new one
imports beyond that is tried in it, by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from bainmarie.environments.environment import LOCK_FILE, Environment, site_packages
from bainmarie.environments.lock_file import entries

_HARMLESS = {"console_scripts", "gui_scripts"}
"""Groups of entry points that make programs and change no import."""


def precedent(
    path: Path, imports: Iterable[str], siblings: Iterable[Environment], source: Environment | None = None
) -> Environment | None:
    """Of the finished siblings whose preflight holds for the new environment too, the one that has tried most of its
    imports; of equal ones the first. None where none has tried any.

    That is `source`, the one whose files these are, where the interpreter is the same.
    """
    if source is not None and _interpreter(path) == _interpreter(source.path):
        return source
    wanted = set(imports)
    by_use = sorted(siblings, key=lambda sibling: len(wanted & set(sibling.imported)), reverse=True)
    useful = (sibling for sibling in by_use if wanted & set(sibling.imported))
    return next((sibling for sibling in useful if _alike(path, sibling)), None)


def _alike(path: Path, sibling: Environment) -> bool:
    assert sibling.path is not None
    if _text(path / "pyvenv.cfg") != _text(sibling.path / "pyvenv.cfg"):  # another interpreter, or another uv
        return False
    new, old = entries(_text(path / LOCK_FILE)), entries(_text(sibling.path / LOCK_FILE))
    differing = {name for name in {*new, *old} if new.get(name) != old.get(name)}
    if not new or differing & set(sibling.sought):
        return False
    installed = [found for place in (path, sibling.path) for found in _installed(place, differing)]
    return all(_unnoticed(distribution, set(sibling.sought)) for distribution in installed)


def _interpreter(path: Path | None) -> list[str]:
    """What `pyvenv.cfg` says, but for the uv that made it, which has installed none of these files."""
    assert path is not None
    return [line for line in _text(path / "pyvenv.cfg").splitlines() if not line.startswith("uv ")]


def _unnoticed(distribution: Distribution, sought: set[str]) -> bool:
    """Whether imports that look for nothing else than that do not notice whether it is there."""
    files = distribution.files
    if files is None or any(entry.group not in _HARMLESS for entry in distribution.entry_points):
        return False
    inside = [file for file in files if file.parts[0] != ".." and not file.parts[0].endswith(".dist-info")]
    if any(file.suffix == ".pth" for file in inside):
        return False
    return not {file.parts[0].partition(".")[0] for file in inside} & sought


def _installed(path: Path, names: set[str]) -> list[Distribution]:
    places = [str(place) for place in site_packages(path)]
    return [found for found in distributions(path=places) if _normalized(found.name) in names]


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
