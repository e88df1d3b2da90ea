"""The exported form of a lock: a text that can be committed, compared, and built again on another machine.

Comment lines of the form `# key: value` first, then pinned requirements with hashes as uv reads them. It holds no
address and no path; the same packages for the same Python and platform give the same text, and the same digest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bainmarie.errors import EnvironmentFailed

_KEYS = ("bainmarie-lock", "python", "tag", "platform", "torch-backend")
_VERSION = "1"
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])? ?(?:==([^\s;\\]+)|@ (\S+))", re.MULTILINE)


@dataclass(frozen=True)
class LockFile:
    """What an exported lock says."""

    python: str
    """Minor version, such as 3.11."""
    tag: str
    platform: str
    torch_backend: str
    requirements: str
    """Pinned, with hashes."""


def write_lock_file(lock: LockFile) -> str:
    """The text of the file."""
    values = (_VERSION, lock.python, lock.tag, lock.platform, lock.torch_backend)
    head = "".join(f"# {key}: {value}".rstrip() + "\n" for key, value in zip(_KEYS, values, strict=True))
    return head + lock.requirements


def read_lock_file(path: Path, environment: str) -> LockFile:
    """What `write_lock_file` wrote. EnvironmentFailed (lock_not_found, lock_unreadable) where it is something else."""
    where = f"environment {environment!r}: the lock {path}"
    hint = "Write one with: bain env lock MODEL > FILE"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise EnvironmentFailed(f"{where} does not exist", hint=hint, code="lock_not_found") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFailed(f"{where} cannot be read: {error}", hint=hint, code="lock_unreadable") from error
    return parse_lock(text, where)


def parse_lock(text: str, where: str) -> LockFile:
    """As `read_lock_file`; `where` begins the message."""
    hint = "Write one with: bain env lock MODEL > FILE"
    lines = text.splitlines(keepends=True)
    head = [re.match(rf"# {key}: ?(.*)$", line) for key, line in zip(_KEYS, lines, strict=False)]
    if len(head) < len(_KEYS) or not all(head):
        raise EnvironmentFailed(f"{where} is not one that `bain env lock` wrote", hint=hint, code="lock_unreadable")
    version, python, tag, platform, backend = (match[1].strip() for match in head if match)
    if version != _VERSION:
        raise EnvironmentFailed(
            f"{where} has the format {version}; known is {_VERSION}", hint=hint, code="lock_unreadable"
        )
    return LockFile(python, tag, platform, backend, "".join(lines[len(_KEYS) :]))


def pins(requirements: str) -> dict[str, str]:
    """Version (or address) by package name, lower case with hyphens."""
    found = _PIN.findall(requirements)
    return {re.sub(r"[-_.]+", "-", name).lower(): version or address for name, version, address in found}


def entries(requirements: str) -> dict[str, str]:
    """A requirement's whole text, hashes and all, by package name as in `pins`."""
    parts = re.split(r"^(?=[A-Za-z0-9])", requirements, flags=re.MULTILINE)
    return {name: part for part in parts for name in pins(part)}
