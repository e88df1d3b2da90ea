"""All environments of one home: built once for everybody who asks, found again without any work."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import uv

from bainmarie.environments import lock as locks
from bainmarie.environments.accelerator import require_accelerator
from bainmarie.environments.build import build
from bainmarie.environments.bundle import Bundle
from bainmarie.environments.commands import clean_variables
from bainmarie.environments.completing import completed
from bainmarie.environments.diagnosis import ImportsMissing
from bainmarie.environments.environment import Environment, interpreter_in, read_marker
from bainmarie.environments.existing import verify
from bainmarie.environments.file_locks import hold
from bainmarie.environments.indexes import Indexes, indexes
from bainmarie.environments.lock_file import pins
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.sweep import Verdict, last_use, note_use, sweep, sweep_unpacked
from bainmarie.environments.worker_packages import WorkerPackages, carried_packages
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress, Report


class EnvironmentStore:
    """The environments under `home`/environments: a directory for each, and the locks they were built from."""

    def __init__(
        self, home: Path, environ: Mapping[str, str] | None = None, worker: WorkerPackages | None = None
    ) -> None:
        """`environ` are the user's variables (index settings, proxies); None takes those of this process.

        `worker` are the packages that every environment gets; None takes those that came with this gateway.
        """
        self._root = Path(os.path.realpath(home / "environments"))  # programs inside name their own path
        self._unpacked = Path(os.path.realpath(home / "worker"))
        self._environ = environ
        self._given = worker
        self._asked: dict[str, _Asked] = {}

    async def ensure(self, spec: EnvironmentSpec, report: Report) -> Environment:
        """The finished environment for a spec; builds it where it is not there yet.

        Parallel asks share one build, here and over processes; each `report` gets its progress and must not raise.
        A caller that is cancelled ends the build only if nobody else waits for it. EnvironmentFailed says why not.
        """
        environment = await self._ensure(spec, report)
        if environment.path is not None:
            await asyncio.to_thread(note_use, self._root, environment.digest)
        if spec.require == "gpu":
            await require_accelerator(spec, environment, clean_variables(self._variables()))
        return environment

    async def _ensure(self, spec: EnvironmentSpec, report: Report) -> Environment:
        if spec.python_executable:
            variables = clean_variables(self._variables())
            environment = await verify(spec, variables=variables, cwd=Path.cwd())
            import_path = await asyncio.to_thread(self._unpack_worker, spec)
            return replace(environment, variables=dict(spec.variables), import_path=import_path)
        settings = self._indexes(spec)
        wish = locks.wish_digest(spec, settings)
        found = await asyncio.to_thread(self._find, wish)
        return _as_wished(found or await self._join(wish, spec, settings, report), spec)

    async def lock(self, spec: EnvironmentSpec, report: Report) -> locks.Lock:
        """The lock of a spec, resolved now where it was not before; nothing is built. EnvironmentFailed."""
        if spec.python_executable:
            raise EnvironmentFailed(
                f"environment {spec.name!r} is an interpreter that is used as it is: there is nothing to lock",
                hint="`bain env explain MODEL` shows what is installed in it.",
                code="nothing_to_lock",
            )
        settings = self._indexes(spec)
        wish = locks.wish_digest(spec, settings)
        if saved := await asyncio.to_thread(locks.read_lock, self._lock_file(wish)):
            return saved
        await asyncio.to_thread(self._make_root, spec)
        return await self._lock(wish, spec, settings, uv.find_uv_bin(), report)

    async def foresee(self, spec: EnvironmentSpec, report: Report) -> Environment:
        """The environment that `ensure` would give, as far as is known of it before it is built: its versions.

        Resolves the spec where that was not done before. EnvironmentFailed.
        """
        if spec.python_executable:
            return await self._ensure(spec, report)
        if found := await asyncio.to_thread(self.find, spec):
            return found
        lock = await self.lock(spec, report)
        path = await asyncio.to_thread(self._path, lock)
        return Environment(spec.name, path.name, interpreter_in(path), path, versions=pins(lock.text))

    async def unpack(self, bundle: Bundle, wanted: Iterable[EnvironmentSpec], report: Report) -> Environment:
        """Make the environment of a bundle, without network. Specs among `wanted` that ask for just that have it then.

        EnvironmentFailed: made for another platform, no such Python, not fit.
        """
        packed = EnvironmentSpec(name=bundle.name, python=bundle.python, packages=bundle.packages or ())
        settings = self._indexes(packed)
        await asyncio.to_thread(self._make_root, packed)
        program = uv.find_uv_bin()
        lock = await locks.lock_here(bundle.lock, str(bundle.path), settings, uv=program, cwd=self._root)
        try:
            environment = await self._build(packed, lock, settings, program, report, bundle)
        except OSError as error:
            raise self._not_writable(packed, error) from error
        for spec in (packed, *wanted):
            if not spec.lock and (spec.python, spec.packages) == (bundle.python, bundle.packages):
                file = self._lock_file(locks.wish_digest(spec, self._indexes(spec)))
                await asyncio.to_thread(locks.save_lock, file, lock)
        return environment

    @property
    def worker(self) -> WorkerPackages:
        """The packages of the worker's that every environment gets."""
        return self._given or carried_packages()

    def find(self, spec: EnvironmentSpec) -> Environment | None:
        """The finished environment for a spec, without building or running anything.

        None also for an interpreter used as it is: only `ensure` can say whether it is fit.
        """
        if spec.python_executable:
            return None
        environment = self._find(locks.wish_digest(spec, self._indexes(spec)))
        return replace(environment, name=spec.name, variables=dict(spec.variables)) if environment else None

    def list(self) -> list[Environment]:
        """Every finished environment, oldest first."""
        found = [read_marker(path) for path in self._root.glob("*") if path.is_dir()]
        return sorted(filter(None, found), key=lambda environment: environment.created)

    def last_use(self, environment: Environment) -> float:
        """When it was last asked for, in seconds since the epoch; 0 if never."""
        return last_use(self._root, environment.digest)

    def sweep(self, wanted: Iterable[EnvironmentSpec], *, dry_run: bool = False) -> Iterator[Verdict]:
        """Remove what none of these specs wants and nobody uses, unpacked workers of others too; see `sweep`."""
        found = (self.find(spec) for spec in wanted)
        yield from sweep(self._root, {environment.digest for environment in found if environment}, dry_run=dry_run)
        yield from sweep_unpacked(self._unpacked, self.worker.digest, dry_run=dry_run)

    def _find(self, wish: str) -> Environment | None:
        lock = locks.read_lock(self._lock_file(wish))
        return read_marker(self._path(lock)) if lock else None

    def _path(self, lock: locks.Lock) -> Path:
        """Where the environment of a lock stands, with this gateway's worker in it."""
        return self._root / lock.environment(self.worker.digest)

    async def _join(self, wish: str, spec: EnvironmentSpec, settings: Indexes, report: Report) -> Environment:
        asked = self._asked.get(wish)
        if asked is None:
            asked = _Asked()
            asked.task = asyncio.create_task(self._make(wish, spec, settings, asked.report))
            self._asked[wish] = asked
            asked.task.add_done_callback(lambda _: self._forget(wish, asked))
        try:
            return await asked.wait(report)
        finally:
            if not asked.reports and not asked.task.done():
                self._forget(wish, asked)  # first: who asks from now on needs a build that is not ending
                asked.task.cancel()
                await asyncio.wait([asked.task])

    def _forget(self, wish: str, asked: _Asked) -> None:
        if self._asked.get(wish) is asked:
            del self._asked[wish]
        if asked.task.done() and not asked.task.cancelled():
            asked.task.exception()  # seen here, so that a failure whose callers have all left is not logged as lost

    async def _make(self, wish: str, spec: EnvironmentSpec, settings: Indexes, report: Report) -> Environment:
        program = uv.find_uv_bin()
        await asyncio.to_thread(self._make_root, spec)
        try:
            lock = await self._lock(wish, spec, settings, program, report)
            try:
                return await self._build(spec, lock, settings, program, report)
            except ImportsMissing as failure:
                more = completed(spec, failure)
                if more is None:
                    raise
                added = ", ".join(more.packages[len(spec.packages) :])
                report(Progress("preflight", None, f"{failure.message}; adding {added}, in a new environment"))
                return await self._make_complete(wish, more, program, report)
        except OSError as error:
            raise self._not_writable(spec, error) from error

    async def _make_complete(self, wish: str, spec: EnvironmentSpec, program: str, report: Report) -> Environment:
        """Build a completed spec; the wish that lacked something has its lock from then on."""
        settings = self._indexes(spec)
        lock = await self._lock(locks.wish_digest(spec, settings), spec, settings, program, report)
        environment = await self._build(spec, lock, settings, program, report)
        await asyncio.to_thread(locks.save_lock, self._lock_file(wish), lock)
        return environment

    async def _build(
        self,
        spec: EnvironmentSpec,
        lock: locks.Lock,
        settings: Indexes,
        program: str,
        report: Report,
        bundle: Bundle | None = None,
    ) -> Environment:
        worker = await asyncio.to_thread(lambda: self.worker)
        return await build(spec, lock, worker, settings, root=self._root, uv=program, report=report, bundle=bundle)

    def _unpack_worker(self, spec: EnvironmentSpec) -> Path:
        try:
            return self.worker.unpacked(self._unpacked)
        except OSError as error:
            raise self._not_writable(spec, error) from error

    def _make_root(self, spec: EnvironmentSpec) -> None:
        try:
            (self._root / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(spec, error) from error

    def _not_writable(self, spec: EnvironmentSpec, error: OSError) -> EnvironmentFailed:
        return EnvironmentFailed(
            f"environment {spec.name!r} could not be made in {self._root}: {error}",
            hint="Check that the folder can be written and the disk has room, or set BAIN_HOME to another folder.",
            code="disk_full" if error.errno == errno.ENOSPC else "home_not_writable",
        )

    async def _lock(
        self, wish: str, spec: EnvironmentSpec, settings: Indexes, program: str, report: Report
    ) -> locks.Lock:
        """The lock of a wish, saved on return; resolved by one process only."""

        def waiting() -> None:
            report(Progress("resolve", None, "another process resolves this environment; waiting for it"))

        file = self._lock_file(wish)
        async with hold(file.with_suffix(".lock"), waiting):
            if (saved := await asyncio.to_thread(locks.read_lock, file)) is not None:
                return saved
            lock = await locks.resolve(spec, settings, uv=program, cwd=self._root, report=report)
            await asyncio.to_thread(locks.save_lock, file, lock)
            return lock

    def _lock_file(self, wish: str) -> Path:
        return self._root / "locks" / f"{wish}.json"

    def _variables(self) -> Mapping[str, str]:
        return os.environ if self._environ is None else self._environ

    def _indexes(self, spec: EnvironmentSpec) -> Indexes:
        return indexes(spec, clean_variables(self._variables()), Path.cwd())


@dataclass
class _Asked:
    """One build and those who wait for it."""

    task: asyncio.Task[Environment] = field(init=False)
    reports: list[Report] = field(default_factory=list)
    last: Progress | None = None

    def report(self, progress: Progress) -> None:
        self.last = progress
        for report in self.reports:
            report(progress)

    async def wait(self, report: Report) -> Environment:
        """The build's result; a cancel of the caller leaves the build alone."""
        self.reports.append(report)
        if self.last is not None:
            report(self.last)
        try:
            return await asyncio.shield(self.task)
        finally:
            self.reports.remove(report)


def _as_wished(environment: Environment, spec: EnvironmentSpec) -> Environment:
    """The environment under the spec's name and variables; EnvironmentFailed if it lacks one of the spec's needs."""
    missing = [name for name in spec.needs if name.lower().replace("_", "-") not in environment.versions]
    if missing:
        raise EnvironmentFailed(
            f"environment {spec.name!r} has no {', '.join(missing)}",
            hint=f"Add {', '.join(missing)} to `environments: {spec.name}: packages:` in the configuration.",
            code="package_missing",
        )
    return replace(environment, name=spec.name, variables=dict(spec.variables))
