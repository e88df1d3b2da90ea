"""Compiled Python files, shared between environments like the sources they were compiled from.

uv gives every environment the same source files, as hard links; Python would compile each of them again for every
environment, which takes seconds and tens of megabytes. A compiled file names its source's time and size, not its place
(the place is set anew when it is loaded), and is replaced, never written into: so it can be a hard link too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_MOST_SIBLINGS = 3
_CACHE = "__pycache__"


def share_bytecode(path: Path, siblings: Iterable[Path], tag: str) -> int:
    """Link the siblings' compiled files of that Python (such as cpython-311) into a new environment.

    Only where both hold the very same source file. Returns how many were linked. On file systems without hard links
    nothing is shared.
    """
    linked = 0
    for sibling in list(siblings)[:_MOST_SIBLINGS]:
        found = list(_compiled(sibling, tag))
        same = [compiled for source, compiled in found if _same_file(path / source, sibling / source)]
        linked += sum(_link(sibling / compiled, path / compiled) for compiled in same)
        if 2 * len(same) > len(found):  # what another one could add is little, and looking costs a second
            break
    return linked


def _compiled(sibling: Path, tag: str) -> Iterator[tuple[str, str]]:
    """Each compiled file's source and own place, from the environment's root."""
    ending = f".{tag}.pyc"
    for folder, _, names in os.walk(sibling):
        parent, last = os.path.split(folder)
        if last != _CACHE:
            continue
        inside = os.path.relpath(parent, sibling)
        for name in names:
            if name.endswith(ending):
                source = os.path.join(inside, f"{name.removesuffix(ending)}.py")
                yield source, os.path.join(inside, _CACHE, name)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def _link(old: Path, new: Path) -> bool:
    try:
        new.parent.mkdir(exist_ok=True)
        os.link(old, new)
    except OSError:  # it is there already, is gone again, or has too many names: Python compiles it then
        return False
    return True
