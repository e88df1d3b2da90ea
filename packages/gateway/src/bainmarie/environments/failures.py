"""What uv says when it fails, as an EnvironmentFailed that a person can act on."""

from __future__ import annotations

import re

from bainmarie.environments.indexes import without_credentials
from bainmarie.errors import EnvironmentFailed

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PYTORCH_INDEX = "download.pytorch.org"
_UNREACHABLE = re.compile(
    r"dns error|failed to lookup|error sending request|client error \(Connect\)|connection (refused|reset)|"
    r"request failed after|timed out|network (is )?unreachable|Failed to fetch|tunnel error|certificate",
    re.IGNORECASE,
)
_NOT_FOUND = re.compile(
    r"Because ([\w.-]+)(?:\[[^\]]*\])? was not found in the (?:package registry|cache|provided package locations)"
)
_OFFLINE = re.compile(r"network was disabled|Network connectivity is disabled")
_NOT_CACHED = re.compile(r"Because ([\w.=-]+) (?:was not found in the cache|needs to be downloaded)")
_NO_VERSION = re.compile(
    r"(?:there is no version of|there are no versions of|only .* (?:is|are) available)", re.IGNORECASE
)
_AGAIN = re.compile(r" for url \((https?://[^)\s]*)\)")
_DISK_FULL = re.compile(r"No space left on device|os error 28\b|disk full|os error 112\b", re.IGNORECASE)
_READ_ONLY = re.compile(r"Read-only file system|Permission denied|os error (?:13|30)\b", re.IGNORECASE)
_OTHERS_THAN_AUTO = (
    "`bain env explain` tells why each package is asked for. To choose others, name an environment under "
    "`environments:` with its `packages:` and set it as the model's `environment:`."
)
_MOST_LINES = 12
_MOST_CHARACTERS = 1600


def pytorch_index_unreachable(stderr: str) -> bool:
    """Whether a uv call failed because the PyTorch index could not be reached."""
    return _PYTORCH_INDEX in stderr and bool(_UNREACHABLE.search(stderr))


def uv_failed(step: str, environment: str, stderr: str) -> EnvironmentFailed:
    """The error for a failed uv call. `step` is what was being done ("resolve", "install", ...)."""
    code, hint = _classify(one_line(_ANSI.sub("", stderr)), environment)
    return EnvironmentFailed(
        f"environment {environment!r} could not be made ({step}): {one_line(cause_lines(stderr))}",
        hint=hint,
        code=code,
    )


def cause_lines(stderr: str) -> str:
    """uv's error and its causes, without progress, warnings and credentials, trimmed in the middle."""
    lines = [_ANSI.sub("", line).rstrip() for line in stderr.splitlines()]
    starts = [number for number, line in enumerate(lines) if line.startswith("error:")]
    if starts:
        lines = lines[starts[0] :]
    lines = [line for line in lines if line.strip() and not line.startswith("warning:")]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES // 2], "...", *lines[-_MOST_LINES // 2 :]]
    text = without_credentials("\n".join(lines)) or "uv gave no reason"
    text = text.removeprefix("error: ")
    if len(text) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text


def one_line(causes: str) -> str:
    """Cause lines as one sentence after the other, without an address in brackets that is named before."""
    text = " ".join(causes.replace("\n  cause: ", ": ").split())
    return _AGAIN.sub(lambda match: "" if f"`{match[1]}`" in text else match[0], text)


def _classify(stderr: str, environment: str) -> tuple[str, str]:
    """The error's code, and the configuration line or command that mends it."""
    auto = environment == "auto"
    place = f"`environments: {environment}: packages:`"
    if _DISK_FULL.search(stderr):
        return "disk_full", "The disk is full. Free some space and ask again; nothing half-made is used."
    if _OFFLINE.search(stderr):
        named = _NOT_CACHED.search(stderr)
        what = f"{named[1]} is" if named else "Something is"
        return "no_network", (
            f"{what} not in uv's cache, and UV_OFFLINE forbids to fetch it. Unset UV_OFFLINE for one build, or name a "
            "folder of wheels in `find_links`."
        )
    if (missing := _NOT_FOUND.search(stderr)) and not _UNREACHABLE.search(stderr):
        return (
            "package_not_found",
            f"There is no package {missing[1]!r} in the configured indexes. "
            + (_OTHERS_THAN_AUTO if auto else f"Check its name in {place}."),
        )
    if _UNREACHABLE.search(stderr):
        return "no_network", (
            "A package index cannot be reached. Check the network and proxy; an offline machine can build from "
            "uv's cache (UV_OFFLINE=1) or from a folder of wheels (find_links)."
        )
    if "hash" in stderr.lower() and "mismatch" in stderr.lower():
        return (
            "hash_mismatch",
            "A file is not the one that was locked. Delete the lock in $BAIN_HOME/environments/locks to lock again.",
        )
    if _NO_VERSION.search(stderr):
        mend = _OTHERS_THAN_AUTO if auto else f"Loosen or correct the version in {place}, or its `python:`."
        return "no_version_fits", f"No version fits. {mend}"
    if "No solution found" in stderr or "unsatisfiable" in stderr:
        mend = _OTHERS_THAN_AUTO if auto else f"Change the versions in {place}."
        return "packages_conflict", f"The packages exclude one another. {mend}"
    if _READ_ONLY.search(stderr):
        return "home_not_writable", "The folder cannot be written. Set BAIN_HOME to a folder of your own."
    return "environment_failed", ""
