"""Our own engine on Hugging Face transformers, in the model's environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.engines import python_worker
from bainmarie.environments.environment import Environment
from bainmarie.workers.launch import LaunchSpec


def launch(models: Sequence[ModelSpec], environment: Environment, home: Path, environ: Mapping[str, str]) -> LaunchSpec:
    return python_worker.launch("transformers", models, environment, home, environ)
