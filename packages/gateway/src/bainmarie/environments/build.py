"""From a lock to a finished environment at its final path."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from bainmarie.environments.bundle import Bundle, unpack_files
from bainmarie.environments.bytecode import share_bytecode
from bainmarie.environments.commands import run_command
from bainmarie.environments.contents import NotWhole, take_over
from bainmarie.environments.diagnosis import raise_problems
from bainmarie.environments.disk import written
from bainmarie.environments.environment import (
    LOCK_FILE,
    MARKER,
    Environment,
    interpreter_in,
    read_marker,
    write_marker,
)
from bainmarie.environments.failures import uv_failed
from bainmarie.environments.file_locks import build_lock, hold
from bainmarie.environments.indexes import Indexes, names_torch, without_credentials
from bainmarie.environments.inspection import Inspection, inspect
from bainmarie.environments.lock import Lock
from bainmarie.environments.lock_file import pins
from bainmarie.environments.needs import IMPORTS
from bainmarie.environments.precedent import precedent
from bainmarie.environments.spec import EnvironmentSpec, package_name
from bainmarie.environments.sync_progress import SyncProgress
from bainmarie.environments.worker_packages import LIST_FILE, WORKER_MODULE, WorkerPackages
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress, Report

_P = ParamSpec("_P")
_T = TypeVar("_T")
WORKER_IMPORTS = ("starlette", "uvicorn", "jinja2")
_CHECKED_IMPORTS = ("torch", "transformers", "safetensors", "accelerate", "peft", "bitsandbytes")
"""Packages whose import is tried first in the preflight where the spec names them, in this order."""
_UV_KEPT = ("UV_CACHE_DIR", "UV_NO_CACHE", "UV_LINK_MODE")
_ROOM = 16 << 20
_ROOM_WITH_TORCH = 512 << 20
"""Bytes. What is in uv's cache on the same disk takes no room again, so this is no estimate of the whole."""


async def build(
    spec: EnvironmentSpec,
    lock: Lock,
    worker: WorkerPackages,
    indexes: Indexes,
    *,
    root: Path,
    uv: str,
    report: Report,
    bundle: Bundle | None = None,
) -> Environment:
    """Build what the lock says, and these packages of the worker's, in `root`/<digest>, or return what is there.

    With `bundle` the files come from it, and no index is asked. Nor is one where a finished environment has the same
    lock, and so differs in the worker's own packages alone: its files are taken over.
    One builder at a time, over all processes; the others wait and find the result. On a failure and on a cancel no
    marker and, where there is time, no directory is left. EnvironmentFailed carries uv's own cause.
    """
    path = root / lock.environment(worker.digest)

    def waiting() -> None:
        report(Progress("install", None, "another process builds this environment; waiting for it"))

    async with hold(build_lock(path), waiting) as descriptors:
        if finished := await asyncio.to_thread(read_marker, path):
            return replace(finished, name=spec.name)
        await asyncio.to_thread(_remove, path)
        try:
            return await _Builder(spec, lock, worker, indexes, path, uv, report, descriptors, bundle).build()
        except BaseException:
            await asyncio.to_thread(_remove, path)
            raise


class _Builder:
    """One build, under the lock, in an empty place."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        lock: Lock,
        worker: WorkerPackages,
        indexes: Indexes,
        path: Path,
        uv: str,
        report: Report,
        keep_open: Sequence[int],
        bundle: Bundle | None,
    ) -> None:
        self._spec, self._lock, self._worker = spec, lock, worker
        self._path, self._uv, self._report = path, uv, report
        self._indexes = indexes.with_backend(lock.torch_backend)
        self._variables = indexes.variables
        self._keep_open = keep_open
        self._bundle = bundle

    async def build(self) -> Environment:
        await asyncio.to_thread(self._check_room)
        await self._make()
        siblings = await asyncio.to_thread(self._siblings)
        source = await self._fill(siblings)
        imports = (*WORKER_IMPORTS, *checked_imports(self._named()))
        like = None
        # Files of a bundle, and what was taken over from one, nobody has compared with the lock's hashes.
        verified = self._bundle is None and (source is None or bool(source.imported))
        if verified:
            like = await asyncio.to_thread(precedent, self._path, imports, siblings, source)
        inspection = await self._preflight(imports, like)
        environment = Environment(
            name=self._spec.name,
            digest=self._path.name,
            python=interpreter_in(self._path),
            path=self._path,
            versions=inspection.versions,
            python_version=inspection.python_version,
            accelerator=inspection.accelerator,
            torch_build=inspection.torch_build,
            architectures=inspection.architectures,
            imported=_together(like.imported if like else (), imports) if verified else (),
            sought=inspection.sought,
            reasons=self._spec.reasons,
            lock=self._lock.digest,
            worker=self._worker.digest,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        await asyncio.to_thread(write_marker, environment, spec=_recorded(self._spec), lock=self._lock.text)
        return environment

    def _named(self) -> tuple[str, ...]:
        """What the spec names; of a spec that is a lock, those of its packages that models are loaded with."""
        locked = pins(self._lock.text)
        return self._spec.packages or tuple(name for name in _CHECKED_IMPORTS if name in locked)

    def _check_room(self) -> None:
        """EnvironmentFailed (disk_full) where not even the files that are never shared would fit."""
        needed = _ROOM_WITH_TORCH if names_torch(self._named()) else _ROOM
        free = shutil.disk_usage(self._path.parent).free
        if free < needed:
            raise EnvironmentFailed(
                f"environment {self._spec.name!r} needs room for {written(needed)} at the least in "
                f"{self._path.parent}; there are {written(free)}",
                hint="Free some space (`bain env gc` removes what no model wants), or set BAIN_HOME to another disk.",
                code="disk_full",
            )

    async def _make(self) -> None:
        await self._run_uv(
            "create",
            "venv",
            "--no-project",
            "--python",
            self._lock.interpreter,
            "--no-python-downloads",
            str(self._path),
        )
        (self._path / LOCK_FILE).write_text(self._lock.text, encoding="utf-8")

    async def _fill(self, siblings: Sequence[Environment]) -> Environment | None:
        """Install all that belongs into the bare environment; where another has given its files, that one."""
        source = None if self._bundle else await self._take_over(siblings)
        if source is None:
            await self._install()
        await self._install_worker()
        paths = [each.path for each in sorted(siblings, key=lambda each: each is not source) if each.path]
        await _to_its_end(share_bytecode, self._path, paths, self._lock.tag)
        return source

    async def _install(self) -> None:
        if self._bundle is not None:
            self._report(Progress("install", None, f"{self._lock.count} packages from {self._bundle.path}"))
            await _to_its_end(unpack_files, self._bundle, self._path)
            return
        progress = SyncProgress(self._lock.count, self._report)
        await self._run_uv(
            *("install", "pip", "sync", str(self._path / LOCK_FILE), "--require-hashes"),
            *("--python", str(interpreter_in(self._path)), "--color", "never"),
            *self._indexes.arguments,
            *self._indexes.backend_arguments,
            progress=progress,
        )

    async def _take_over(self, siblings: Sequence[Environment]) -> Environment | None:
        """Fill the bare environment with the files of one that has the same lock; None where there is none.

        Not on Windows: programs there (.exe) name their interpreter in a form of their own.
        """
        if os.name != "posix":
            return None
        same = [each for each in siblings if each.lock == self._lock.digest]
        for source in sorted(same, key=lambda each: not each.imported):  # those that came from a bundle last
            assert source.path is not None
            async with hold(build_lock(source.path), lambda: None):  # it cannot be removed meanwhile
                if await asyncio.to_thread(read_marker, source.path) is None:
                    continue
                told = f"the files of {source.digest[:12]}, which has the same lock, and bainmarie-worker"
                self._report(Progress("install", None, f"{told} {self._worker.version}"))
                try:
                    count = await _to_its_end(take_over, source.path, source.versions, self._path)
                except (NotWhole, FileNotFoundError) as error:
                    self._report(Progress("install", None, f"{source.digest[:12]} is not whole any more: {error}"))
                    await asyncio.to_thread(_remove, self._path)
                    await self._make()
                    continue
                self._report(Progress("install", 1.0, f"{count} files", count, count, "files"))
                return source
        return None

    async def _install_worker(self) -> None:
        """The worker's own packages: from the gateway's wheels, without network, whatever the user's settings say."""
        file = self._path / LIST_FILE
        file.write_text(await asyncio.to_thread(lambda: self._worker.requirements), encoding="utf-8")
        await self._run_uv(
            *("install", "pip", "install", "--requirements", str(file), "--require-hashes", "--no-deps"),
            *("--offline", "--no-index", "--python", str(interpreter_in(self._path)), "--color", "never"),
            variables=_without_wishes(self._variables),
        )

    def _siblings(self) -> list[Environment]:
        """Finished environments, the newest first."""
        found = [read_marker(path) for path in self._path.parent.glob("*") if path != self._path]
        return sorted(filter(None, found), key=lambda environment: environment.created, reverse=True)

    async def _preflight(self, imports: Sequence[str], like: Environment | None) -> Inspection:
        """Imports that were tried in `like`, with the same packages, are only looked up."""
        known = [name for name in imports if like and name in like.imported]
        untried = [name for name in imports if name not in known]
        what = [f"importing {', '.join(known)}: as in {like.digest[:12]}"] if like else []
        what += [f"importing {', '.join(untried)}"] if untried else []
        self._report(Progress("preflight", None, "; ".join(what)))
        inspection = await inspect(
            interpreter_in(self._path),
            name=self._spec.name,
            variables=self._variables,
            cwd=self._path,
            prefix=self._path,
            imports=[*untried, WORKER_MODULE],
            needs=known,
            keep_open=self._keep_open,
        )
        raise_problems(inspection.problems, self._spec.name, inspection.versions)
        if like:
            inspection = replace(
                inspection,
                accelerator=inspection.accelerator or like.accelerator,
                torch_build=inspection.torch_build or like.torch_build,
                sought=_together(like.sought, inspection.sought),
            )
        self._report(Progress("preflight", 1.0, _summary(inspection, imports)))
        return inspection

    async def _run_uv(
        self,
        step: str,
        *arguments: str,
        progress: SyncProgress | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        done = await run_command(
            (self._uv, *arguments),
            variables=variables or self._variables,
            cwd=self._path.parent,
            on_line=progress.line if progress else lambda line: None,
            keep_open=self._keep_open,
            terminal=progress is not None,
        )
        if done.code != 0:
            raise uv_failed(step, self._spec.name, done.stderr)


async def _to_its_end(work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """In a thread, as `asyncio.to_thread`, but on a cancel too it has ended on return: what it wrote can be removed."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working})
        raise


def checked_imports(packages: Sequence[str]) -> tuple[str, ...]:
    """What a preflight imports for these requirements."""
    named = {package_name(package) for package in packages}
    own_code = [module for module, package in IMPORTS.items() if package_name(package) in named]
    return (*(name for name in _CHECKED_IMPORTS if name in named), *sorted(set(own_code) - set(_CHECKED_IMPORTS)))


def _without_wishes(variables: Mapping[str, str]) -> dict[str, str]:
    """Without what the user wishes of uv for other packages; where its cache is, and how it links, is left."""
    return {name: value for name, value in variables.items() if not name.startswith("UV_") or name in _UV_KEPT}


def _together(there: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*there, *more)))


def _summary(inspection: Inspection, imports: Sequence[str]) -> str:
    named = [
        f"{name} {inspection.versions[name]}" for name in imports[len(WORKER_IMPORTS) :] if name in inspection.versions
    ]
    return ", ".join([f"Python {inspection.python_version}", *named, *filter(None, [inspection.accelerator])])


def _recorded(spec: EnvironmentSpec) -> Mapping[str, object]:
    """The spec for the marker: without variables (they can be secret) and credentials."""
    record = asdict(replace(spec, variables=(), reasons=()))
    record |= {"reasons": [asdict(reason) for reason in spec.reasons]}
    return {key: _clean(value) for key, value in record.items() if key != "variables"}


def _clean(value: object) -> object:
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: _clean(part) for key, part in value.items()}
    return [_clean(part) for part in value] if isinstance(value, list | tuple) else value


def _remove(path: Path) -> None:
    """Remove a directory, its marker first: what is half-removed must not look finished."""
    (path / MARKER).unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
