"""May an adapter be put on a running worker? Its files are whole, and the worker's peft can read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.environments.checkpoint import check_model_files
from bainmarie.environments.environment import Environment
from bainmarie.environments.fit import check_adapter_fit


def check_adapter(model: ModelSpec, info: Mapping[str, object], catalog: Catalog) -> None:
    """LoadFailed or EnvironmentFailed where it may not. `info` is what the worker has said about itself."""
    check_model_files(model)
    packages, python = info.get("packages"), Path(str(info.get("interpreter")))
    if model.engine != "transformers" or not isinstance(packages, Mapping):
        return
    named = catalog.environments.get(model.environment)
    as_it_is = named is not None and named.python_executable is not None
    path = None if as_it_is else python.parent.parent
    check_adapter_fit(model, Environment(model.environment, "", python, path, versions=packages))
