"""An environment's own files: all that would have to be installed again, and nothing that its place gives.

Left out are the interpreter, which is made by `uv venv`, compiled Python files, marker and lock, and the worker's own
packages, which come from the gateway that uses the environment.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

from bainmarie.environments.environment import LOCK_FILE, MARKER, site_packages
from bainmarie.environments.worker_packages import LIST_FILE, PACKAGES

SCRIPTS = ("bin", "Scripts")
_INTERPRETER = re.compile(r"pythonw?[\d.]*(\.exe)?|activate(_this)?(\.\w+)?|deactivate(\.\w+)?|pydoc\.bat")
"""Names in bin that belong to the interpreter and not to a package."""
_LEFT_OUT = (MARKER, LOCK_FILE, LIST_FILE, "pyvenv.cfg", "lib64", ".gitignore", ".lock", "CACHEDIR.TAG")


class NotWhole(Exception):
    """An environment does not hold any more what was installed in it."""


def own_files(environment: Path) -> Iterator[Path]:
    """Every file, in a fixed order."""
    packages = site_packages(environment)
    for folder, folders, names in os.walk(environment):
        here = Path(folder)
        left_out = _LEFT_OUT if here == environment else ()
        folders[:] = sorted(name for name in folders if name != "__pycache__" and name not in left_out)
        if here in packages:
            folders[:] = [name for name in folders if _package(name) not in PACKAGES]
        in_scripts = here.parent == environment and here.name in SCRIPTS
        for name in sorted(names):
            if name not in left_out and not (in_scripts and _INTERPRETER.fullmatch(name)):
                yield here / name


def take_over(source: Path, versions: Mapping[str, str], environment: Path) -> int:
    """Give a bare environment all that `source` holds, by hard links; returns how many files.

    NotWhole where that is not what was installed in it: packages of these versions, with each of their files. As with
    uv's own links, files are replaced and never written into: neither of the two can change the other. What no package
    says is its own is copied: who made it may write into it. So are scripts, which name their place.
    """
    others = _installed(source).items() ^ {pair for pair in versions.items() if pair[0] not in PACKAGES}
    if others:
        raise NotWhole(f"{min(others)[0]} was changed in it")
    listed, files = _listed(source), list(own_files(source))
    for file in files:
        place = file.relative_to(source)
        new = environment / place
        new.parent.mkdir(parents=True, exist_ok=True)
        linked = str(place) in listed and place.parts[0] not in SCRIPTS
        listed.discard(str(place))
        if not (linked and _linked(file, new)):
            shutil.copy2(file, new, follow_symlinks=False)
    if listed:
        raise NotWhole(f"{len(listed)} files are gone, {min(listed)} among them")
    move_scripts(environment, str(source))
    return len(files)


def move_scripts(environment: Path, old: str) -> None:
    """Let scripts that name the environment's old place name its new one."""
    for folder in SCRIPTS:
        for script in (environment / folder).glob("*"):
            if script.is_file() and not script.is_symlink():
                _move_script(script, old, str(environment))


def _move_script(script: Path, old: str, new: str) -> None:
    content = script.read_bytes()
    if content.startswith(b"#!") and old.encode() in content:
        mode = script.stat().st_mode
        script.write_bytes(content.replace(old.encode(), new.encode()))
        os.chmod(script, mode)


def _linked(file: Path, new: Path) -> bool:
    """False where this file system has no hard links, or the file has too many of them."""
    try:
        os.link(file, new)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _listed(environment: Path) -> set[str]:
    """Places of all files that installed packages say are theirs, but for compiled ones and the worker's own."""
    found: set[str] = set()
    for folder in site_packages(environment):
        for record in folder.glob("*.dist-info/RECORD"):
            if _package(record.parent.name) in PACKAGES:
                continue
            with record.open(encoding="utf-8", newline="") as file:
                found.update(os.path.normpath(os.path.join(folder, row[0])) for row in csv.reader(file) if row)
    inside = f"{environment}{os.sep}"
    return {place.removeprefix(inside) for place in found if place.startswith(inside) and "__pycache__" not in place}


def _installed(environment: Path) -> dict[str, str]:
    """Versions by package, without the worker's own."""
    found = distributions(path=[str(place) for place in site_packages(environment)])
    versions = {re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in found}
    return {name: version for name, version in versions.items() if name not in PACKAGES}


def _package(folder: str) -> str:
    """The package that a folder among the packages belongs to, or its metadata."""
    return folder.partition("-")[0].replace("_", "-").lower()
