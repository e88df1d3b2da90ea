"""Specs small enough to build for real in a second."""

from __future__ import annotations

import pytest

from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.progress import Progress


@pytest.fixture
def spec() -> EnvironmentSpec:
    return EnvironmentSpec(name="small", packages=("six==1.16.0",))


@pytest.fixture
def seen() -> list[Progress]:
    """Collects progress: give `seen.append` as the report."""
    return []
