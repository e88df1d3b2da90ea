"""An environment that needs no build: this interpreter has what the fake engine needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bainmarie.environments.environment import Environment
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.progress import Progress, Report


class OwnInterpreter:
    """In place of the store."""

    def __init__(self) -> None:
        self.asked: list[EnvironmentSpec] = []

    async def ensure(self, spec: EnvironmentSpec, report: Report) -> Environment:
        self.asked.append(spec)
        report(Progress("preflight", 1.0))
        return Environment(
            name=spec.name, digest="d1", python=Path(sys.executable), path=None, variables=dict(spec.variables)
        )


@pytest.fixture
def environments() -> OwnInterpreter:
    return OwnInterpreter()
