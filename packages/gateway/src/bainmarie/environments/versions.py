"""Versions as models' files record them: `4.57.1`, `5.24.0.dev0`, `0.22.0.dev0@c0ffee`."""

from __future__ import annotations

import re

_BEFORE_RELEASE = re.compile(r"\d+(?:\.\d+)*[.-]?(?:dev|a|b|c|rc|alpha|beta|pre)\d*", re.IGNORECASE)


def unreleased(version: str) -> bool:
    """Whether it comes before the release of its numbers (5.24.0.dev0), which may not be out yet."""
    return bool(_BEFORE_RELEASE.match(version))
