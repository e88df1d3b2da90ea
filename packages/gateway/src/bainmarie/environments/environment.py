"""A finished environment, and the marker file that makes a directory one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bainmarie.environments.spec import Reason

MARKER = "environment.json"
"""Written last, synced, by rename. A directory without it was never finished and is never used."""

LOCK_FILE = "requirements.lock"
"""In every environment: what it was built from."""


@dataclass(frozen=True)
class Environment:
    """An environment that has passed its preflight."""

    name: str
    """From the configuration, or `auto`."""
    digest: str
    """Names the directory; for an interpreter used as it is, a digest of its path."""
    python: Path
    """The interpreter to start."""
    path: Path | None = None
    """The directory; None for an interpreter used as it is."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the spec."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed version by package name (normalized: lower case, hyphens)."""
    python_version: str = ""
    accelerator: str = ""
    """What torch sees: `cpu`, `cuda`, `mps`, ...; empty without torch."""
    torch_build: str = ""
    """What torch was built for: `cpu`, `cuda 13.0`, ...; empty without torch, or where nobody imported it."""
    architectures: tuple[str, ...] = ()
    """Values of model_type that its transformers knows; empty where that is not known."""
    imported: tuple[str, ...] = ()
    """What its preflight has imported."""
    sought: tuple[str, ...] = ()
    """Top-level modules and distributions that those imports have looked for, found or not."""
    created: str = ""
    """ISO 8601, UTC."""
    reasons: tuple[Reason, ...] = ()
    """Why it holds what it holds, as it was built."""
    lock: str = ""
    """Digest of its lock: the same for all that hold the same packages beside the worker's own."""
    worker: str = ""
    """Digest of the worker's own packages in it; empty where they are not installed in it."""
    import_path: Path | None = None
    """Where the worker's own packages lie for an interpreter used as it is; None where they are installed."""


def interpreter_in(path: Path) -> Path:
    """Where the interpreter of a virtual environment stands."""
    return path / "Scripts" / "python.exe" if os.name == "nt" else path / "bin" / "python"


def site_packages(path: Path) -> list[Path]:
    """Where an environment's packages lie: one folder, or none in a bare directory."""
    return sorted(path.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages"))


def write_marker(environment: Environment, *, spec: Mapping[str, object], lock: str) -> None:
    """Make the directory an environment: on return the marker is on the disk, complete."""
    assert environment.path is not None
    record = {
        "names": [environment.name],
        "digest": environment.digest,
        "lock_digest": environment.lock,
        "worker": environment.worker,
        "python_version": environment.python_version,
        "versions": dict(sorted(environment.versions.items())),
        "accelerator": environment.accelerator,
        "torch_build": environment.torch_build,
        "architectures": environment.architectures,
        "imported": environment.imported,
        "sought": environment.sought,
        "created": environment.created,
        "spec": spec,
        "lock": lock,
    }
    write_synced(environment.path / MARKER, json.dumps(record, indent=1, ensure_ascii=False))


def read_marker(path: Path) -> Environment | None:
    """The environment in that directory; None where none was finished or its interpreter is gone.

    Earlier releases named it by its lock alone: the worker's own packages were not installed in it.
    """
    try:
        record = json.loads((path / MARKER).read_text(encoding="utf-8"))
        environment = Environment(
            name=record["names"][0],
            digest=record["digest"],
            python=interpreter_in(path),
            path=path,
            versions=record["versions"],
            python_version=record["python_version"],
            accelerator=record["accelerator"],
            torch_build=record.get("torch_build", ""),
            architectures=tuple(record.get("architectures", ())),
            imported=tuple(record.get("imported", ())),
            sought=tuple(record.get("sought", ())),
            created=record["created"],
            reasons=_reasons(record["spec"].get("reasons", ())),
            lock=record.get("lock_digest", record["digest"]),
            worker=record.get("worker", ""),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return environment if environment.digest == path.name and environment.python.exists() else None


def _reasons(records: Sequence[object]) -> tuple[Reason, ...]:
    """Those of a marker; markers of earlier releases hold pairs, which are left out."""
    return tuple(Reason(**record) for record in records if isinstance(record, dict))


def write_synced(path: Path, text: str) -> None:
    """Replace a file as a whole: after a crash at any instant it has its old or its new content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
