"""Release numbers of versions, as gateway and worker compare them."""

from __future__ import annotations

import re


def numbers(version: str) -> tuple[int, ...]:
    """(5, 24, 0) of `5.24.0.dev0@c0ffee`; () where a version begins with no number."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
