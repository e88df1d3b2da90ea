"""What the installed libraries are too old for, or this model has no part in: told in its info, never a crash."""

from __future__ import annotations

from bainmarie_worker.packages import version_of

_SINCE = (
    ((4, 56), "caches do not know sliding windows: such models keep every token and run through generate()"),
    ((5, 1), "recurrent and hybrid models run through generate(), without reuse of earlier turns"),
    ((5, 0), "weights in one file load without steps of progress"),
)
"""By the first transformers that can: what an older one lacks."""


def library_limits() -> list[str]:
    """One line for each thing that this environment's transformers lacks."""
    version = version_of("transformers")
    found = f"transformers {version[0]}.{version[1]}"
    return [f"{found}: {lack} (since {major}.{minor})" for (major, minor), lack in _SINCE if version < (major, minor)]
