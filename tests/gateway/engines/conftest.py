"""An environment that needs no build: this interpreter has what the fake engine needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bainmarie.environments.environment import Environment
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.worker_packages import carried_packages
from bainmarie.progress import Progress, Report


class OwnInterpreter:
    """In place of the store."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.asked: list[EnvironmentSpec] = []

    async def ensure(self, spec: EnvironmentSpec, report: Report) -> Environment:
        self.asked.append(spec)
        report(Progress("preflight", 1.0))
        return Environment(
            name=spec.name,
            digest="d1",
            python=Path(sys.executable),
            variables=dict(spec.variables),
            import_path=carried_packages().unpacked(self._home / "worker"),
        )


@pytest.fixture
def environments(tmp_path: Path) -> OwnInterpreter:
    return OwnInterpreter(tmp_path)
