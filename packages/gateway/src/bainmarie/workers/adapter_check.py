"""May an adapter be put on a worker? Its files are whole, and the peft that is there can read them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.environments.checkpoint import check_model_files
from bainmarie.environments.environment import Environment
from bainmarie.environments.fit import check_adapter_fit
from bainmarie.environments.training_folders import resolved
from bainmarie.environments.wish import counted, wish
from bainmarie.errors import BainError
from bainmarie.progress import Report
from bainmarie.workers.prepare import Environments


async def foresee_adapter(model: ModelSpec, catalog: Catalog, environments: Environments, report: Report) -> None:
    """Before its worker is started, and the base's weights are read: LoadFailed or EnvironmentFailed where it may not.

    What is wrong with the base, or keeps the environment from being made, is left to the start.
    """
    if model.engine != "transformers":
        return
    models = [resolved(each) for each in catalog.sharing(model)]
    try:
        await asyncio.to_thread(check_model_files, replace(models[0], adapter=None))
    except BainError:
        return
    await asyncio.to_thread(check_model_files, model)
    try:
        spec = wish(catalog, await asyncio.to_thread(counted, models))
        environment = await environments.foresee(spec, report)
    except BainError:
        return
    await asyncio.to_thread(check_adapter_fit, model, environment)


def check_adapter(model: ModelSpec, info: Mapping[str, object], catalog: Catalog) -> None:
    """On a worker that runs: LoadFailed or EnvironmentFailed where it may not.

    `info` is what the worker has said about itself. Blocking.
    """
    check_model_files(model)
    packages, python = info.get("packages"), Path(str(info.get("interpreter")))
    if model.engine != "transformers" or not isinstance(packages, Mapping):
        return
    named = catalog.environments.get(model.environment)
    as_it_is = named is not None and named.python_executable is not None
    path = None if as_it_is else python.parent.parent
    check_adapter_fit(model, Environment(model.environment, "", python, path, versions=packages))
