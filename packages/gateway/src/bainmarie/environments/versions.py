"""Versions as models' files record them: `4.57.1`, `5.24.0.dev0`, `0.22.0.dev0@c0ffee`."""

from __future__ import annotations

import re

_RELEASE = re.compile(r"\d+(?:\.\d+)*")
_BEFORE_RELEASE = re.compile(r"[.-]?(?:dev|a|b|c|rc|alpha|beta|pre)\d*", re.IGNORECASE)


def numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version; () where there are none."""
    match = _RELEASE.match(version)
    return tuple(map(int, match[0].split("."))) if match else ()


def unreleased(version: str) -> bool:
    """Whether it comes before the release of its numbers (5.24.0.dev0), which may not be out yet."""
    match = _RELEASE.match(version)
    return bool(match and _BEFORE_RELEASE.match(version, match.end()))
