"""The worker's own packages: from the wheels that the gateway carries into a model's environment.

An environment of ours has them installed, and their digest is part of its name. One that the user made is never
changed: for it they are unpacked once into a folder of the home, which goes on the import path.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bainmarie import carried
from bainmarie.errors import EnvironmentFailed

WORKER = "bainmarie-worker"
PACKAGES = ("bainmarie-protocol", WORKER)
"""Their names, as they stand among an environment's versions."""
LIST_FILE = "worker.lock"
"""In every environment of ours: where they were installed from, as uv reads it."""
WORKER_MODULE = "bainmarie_worker.__main__"
"""What a preflight imports of them: all that a worker starts with."""
_DIGITS = 20


@dataclass(frozen=True)
class WorkerPackages:
    """The wheels of one release, as they were when this process first looked at them."""

    wheels: tuple[Path, ...]
    hashes: tuple[str, ...]
    """SHA-256 of each."""

    @property
    def digest(self) -> str:
        """Of their content."""
        return hashlib.sha256("".join(self.hashes).encode()).hexdigest()[:_DIGITS]

    @property
    def version(self) -> str:
        return next(wheel.name.split("-")[1] for wheel in self.wheels if wheel.name.startswith("bainmarie_worker-"))

    @property
    def requirements(self) -> str:
        """As uv reads them: places with hashes. EnvironmentFailed (bainmarie_replaced) where they have changed."""
        self._check()
        lines = (
            f"{name} @ {wheel.absolute().as_uri()} --hash=sha256:{expected}\n"
            for name, wheel, expected in zip(PACKAGES, self.wheels, self.hashes, strict=True)
        )
        return "".join(lines)

    def unpacked(self, root: Path) -> Path:
        """The folder `root`/DIGEST that holds both packages, made now where it is not there; noted as used now.

        EnvironmentFailed (bainmarie_replaced) where the wheels have changed.
        """
        folder = carried.whole(root / self.digest, self._unpack)
        os.utime(folder)
        return folder

    def _unpack(self, folder: Path) -> None:
        self._check()
        for wheel in self.wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)

    def _check(self) -> None:
        if not self._are_the_same():
            raise EnvironmentFailed(
                "another bainmarie was installed in the place of this one while it runs: its worker is gone",
                hint="Start the new one: bain up --replace",
                code="bainmarie_replaced",
            )

    def _are_the_same(self) -> bool:
        try:
            return tuple(map(_hash, self.wheels)) == self.hashes
        except FileNotFoundError:
            return False


def worker_packages(wheels: Sequence[Path]) -> WorkerPackages:
    """Of these wheels as they are now. OSError."""
    named = tuple(sorted(wheels))
    return WorkerPackages(named, tuple(map(_hash, named)))


@cache
def carried_packages() -> WorkerPackages:
    """Those that came with this gateway, read once in a process.

    EnvironmentFailed (worker_not_built) where a checkout cannot build them.
    """
    try:
        return worker_packages(carried.worker_wheels())
    except (OSError, RuntimeError) as error:
        raise EnvironmentFailed(f"the worker's packages cannot be had: {error}", code="worker_not_built") from error


def _hash(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()
