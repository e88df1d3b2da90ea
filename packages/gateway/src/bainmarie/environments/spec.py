"""What an environment shall hold, before anything is resolved or built."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NAME = re.compile(r"\s*([A-Za-z0-9][\w.-]*)")


@dataclass(frozen=True)
class Reason:
    """One decision about an inferred environment."""

    requirement: str
    """As pip writes it; empty for a remark that brings no package."""
    why: str
    source: str
    """The file it was read from, `the configuration`, or `bainmarie` for what holds for every model."""


@dataclass(frozen=True)
class EnvironmentSpec:
    """The wish: packages to build from, a lock to build again, or an interpreter to use as it is.

    Two specs with the same wish share one directory: `name`, `variables`, `needs`, `require`, `reasons` do not count
    for it.
    """

    name: str
    """From the configuration, or `auto`."""
    python: str = ""
    """Version such as "3.10"; empty takes the gateway's own version (never its interpreter's environment)."""
    packages: tuple[str, ...] = ()
    """Requirements of the model: torch, transformers, ... The worker's own needs are added by the builder."""
    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    torch_backend: str = "auto"
    """What uv's --torch-backend gets where no index is configured."""
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables of the worker. They change no package, so they are not part of the digest."""
    lock: str | None = None
    """An exported lock to build from, absolute. Excludes `python` and `packages`."""
    python_executable: str | None = None
    """An existing interpreter, verified and never changed. Excludes all that builds one."""
    require: str = ""
    """`gpu`: refuse to work where torch sees no accelerator."""
    needs: tuple[str, ...] = ()
    """Packages that must be importable in the finished environment beside the worker's own: what the engine imports.
    They are checked, never installed: what shall be installed stands in `packages`."""
    reasons: tuple[Reason, ...] = field(default=())
    """For inferred packages: each requirement with its reason, and remarks."""


def package_name(requirement: str) -> str:
    """The normalized name in a requirement: lower case, hyphens. Empty where there is none."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
