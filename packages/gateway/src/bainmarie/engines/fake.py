"""An engine without a model, for tests: deterministic texts, and faults on demand (`options`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.engines import python_worker
from bainmarie.environments.environment import Environment
from bainmarie.workers.launch import LaunchSpec


def launch(models: Sequence[ModelSpec], environment: Environment, home: Path, environ: Mapping[str, str]) -> LaunchSpec:
    return python_worker.launch("fake", models, environment, home, environ)
