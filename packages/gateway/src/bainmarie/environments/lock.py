"""From a wish to a lock: every package with its version and hashes, for one interpreter.

A lock is kept by the digest of the wish it came from, so that the next start resolves nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bainmarie.environments.commands import Finished, run_command
from bainmarie.environments.environment import write_synced
from bainmarie.environments.failures import pytorch_index_unreachable, uv_failed
from bainmarie.environments.indexes import Indexes
from bainmarie.environments.interpreters import find_interpreter, wished_version
from bainmarie.environments.lock_file import LockFile, pins, read_lock_file
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress, Report

WORKER_NEEDS = ("starlette>=0.40", "uvicorn>=0.30", "jinja2")
"""What every worker imports beside its model's packages: the same list as in packages/worker/pyproject.toml."""
INDEX_FALLBACK = "the PyTorch index cannot be reached; using the default index"
OFFLINE = "offline: from uv's cache and find-links alone"
_FORMAT = 1
"""Raised when environments of earlier releases must not be used any more."""
_DIGITS = 20


@dataclass(frozen=True)
class Lock:
    """What to install, and for which interpreter. Free of index addresses."""

    text: str
    """Pinned requirements with hashes, as `uv pip compile` writes them."""
    interpreter: str
    python_version: str
    tag: str
    platform: str
    torch_backend: str
    """What `--torch-backend` must get when it is installed; may differ from the wish (see `resolve`)."""

    @property
    def digest(self) -> str:
        """The same for the same packages, kind of interpreter, and platform."""
        return _digest([_FORMAT, self.minor, self.tag, self.platform, self.text])

    def environment(self, worker: str) -> str:
        """Names the environment's directory; `worker` is the digest of the worker's own packages in it."""
        return _digest([self.digest, worker])

    @property
    def minor(self) -> str:
        """Two numbers of the Python version."""
        return ".".join(self.python_version.split(".")[:2])

    @property
    def count(self) -> int:
        """How many packages it holds."""
        return len(pins(self.text))

    @property
    def exported(self) -> LockFile:
        """What travels to another machine."""
        return LockFile(self.minor, self.tag, self.platform, self.torch_backend, self.text)


def wish_digest(spec: EnvironmentSpec, indexes: Indexes) -> str:
    """The same for all wishes that resolve to the same lock on this machine.

    EnvironmentFailed where the spec names a lock file that is none.
    """
    if spec.lock:
        named = read_lock_file(Path(spec.lock), spec.name)
        return _digest([_FORMAT, "lock", asdict(named)])
    return _digest([_FORMAT, wished_version(spec.python), sorted(requirements(spec)), indexes.identity])


def requirements(spec: EnvironmentSpec) -> tuple[str, ...]:
    """The spec's packages and the worker's own needs."""
    return (*spec.packages, *WORKER_NEEDS)


def read_lock(path: Path) -> Lock | None:
    """A saved lock whose interpreter is still there."""
    try:
        lock = Lock(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return lock if Path(lock.interpreter).exists() else None


def save_lock(path: Path, lock: Lock) -> None:
    write_synced(path, json.dumps(asdict(lock), indent=1))


async def resolve(spec: EnvironmentSpec, indexes: Indexes, *, uv: str, cwd: Path, report: Report) -> Lock:
    """Find the interpreter and the versions. EnvironmentFailed says what cannot be had.

    A spec that names a lock file gets that lock, if it fits this machine.
    Where the PyTorch index was uv's choice (backend `auto`) and cannot be reached, the default index is used instead,
    and one progress line says so.
    """
    if spec.lock:
        return await _named(spec, spec.lock, indexes, uv, cwd, report)
    named = ", ".join(spec.packages) or "the worker's own packages"
    report(Progress("resolve", None, f"{named} ({OFFLINE})" if indexes.offline else named))
    variables = indexes.variables
    interpreter = await find_interpreter(spec.python, uv=uv, variables=variables, cwd=cwd)
    compiled = await _compile(spec, indexes, interpreter.path, uv, variables, cwd)
    if compiled.code != 0 and indexes.torch_backend == "auto" and pytorch_index_unreachable(compiled.stderr):
        report(Progress("resolve", None, INDEX_FALLBACK))
        indexes = indexes.with_backend("")
        compiled = await _compile(spec, indexes, interpreter.path, uv, variables, cwd)
    if compiled.code != 0:
        raise uv_failed("resolve", spec.name, compiled.stderr)
    lock = Lock(
        text=compiled.stdout,
        interpreter=str(interpreter.path),
        python_version=interpreter.version,
        tag=interpreter.tag,
        platform=interpreter.platform,
        torch_backend=indexes.torch_backend,
    )
    report(Progress("resolve", 1.0, f"{lock.count} packages", lock.count, lock.count, "packages"))
    return lock


async def _named(spec: EnvironmentSpec, path: str, indexes: Indexes, uv: str, cwd: Path, report: Report) -> Lock:
    wanted = await asyncio.to_thread(read_lock_file, Path(path), spec.name)
    lock = await lock_here(wanted, f"environment {spec.name!r}: {path}", indexes, uv=uv, cwd=cwd)
    report(Progress("resolve", 1.0, f"{lock.count} packages, from {path}", lock.count, lock.count, "packages"))
    return lock


async def lock_here(wanted: LockFile, where: str, indexes: Indexes, *, uv: str, cwd: Path) -> Lock:
    """An exported lock with an interpreter of this machine; EnvironmentFailed where it was made for another kind."""
    interpreter = await find_interpreter(wanted.python, uv=uv, variables=indexes.variables, cwd=cwd)
    if (interpreter.tag, interpreter.platform) != (wanted.tag, wanted.platform):
        there = f"{interpreter.tag} on {interpreter.platform}"
        raise EnvironmentFailed(
            f"{where} was locked for {wanted.tag} on {wanted.platform}, this is {there}",
            hint="A lock holds for one platform: lock again on this one with `bain env lock`.",
            code="lock_other_platform",
        )
    return Lock(
        text=wanted.requirements,
        interpreter=str(interpreter.path),
        python_version=interpreter.version,
        tag=interpreter.tag,
        platform=interpreter.platform,
        torch_backend=wanted.torch_backend,
    )


async def _compile(
    spec: EnvironmentSpec, indexes: Indexes, python: Path, uv: str, variables: Mapping[str, str], cwd: Path
) -> Finished:
    with tempfile.TemporaryDirectory(prefix="bain-lock-") as folder:
        wish = Path(folder) / "requirements.in"
        wish.write_text("".join(f"{line}\n" for line in requirements(spec)), encoding="utf-8")
        command = (
            *(uv, "pip", "compile", str(wish), "--python", str(python), "--generate-hashes", "--no-header"),
            *("--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--color", "never"),
            *indexes.arguments,
            *indexes.backend_arguments,
        )
        return await run_command(command, variables=variables, cwd=cwd)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_DIGITS]
