"""From a worker's models to what starts it: files checked, environment built."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.engines import engine
from bainmarie.engines.command import NO_ENVIRONMENT
from bainmarie.environments.environment import Environment
from bainmarie.environments.fit import check_fit
from bainmarie.environments.hub_access import check_hub_access
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.training_folders import resolved
from bainmarie.environments.wish import counted, wish
from bainmarie.progress import Report
from bainmarie.workers.launch import LaunchSpec


class Environments(Protocol):
    """What is needed of the store."""

    async def ensure(self, spec: EnvironmentSpec, report: Report) -> Environment:
        """The finished environment, built if need be. EnvironmentFailed."""

    async def foresee(self, spec: EnvironmentSpec, report: Report) -> Environment:
        """What `ensure` would give, with the versions that it would hold; nothing is built. EnvironmentFailed."""


class Preparation:
    """Callable: the models that share a worker -> LaunchSpec."""

    def __init__(
        self,
        catalog: Catalog,
        environments: Environments,
        home: Path,
        environ: Mapping[str, str],
        check: Callable[[ModelSpec], None],
        infer: Callable[[Sequence[ModelSpec]], EnvironmentSpec],
    ) -> None:
        self._catalog = catalog
        self._environments = environments
        self._home = home
        self._environ = environ
        self._check = check
        self._infer = infer

    async def __call__(self, models: Sequence[ModelSpec], report: Report) -> LaunchSpec:
        """LoadFailed where the base's files are not fit; EnvironmentFailed. A broken adapter is left for later."""
        launch = engine(models[0].engine)
        if not models[0].environment:
            return launch(models, NO_ENVIRONMENT, self._home, self._environ)
        fit = await asyncio.to_thread(self._counted, models)
        wanted = await asyncio.to_thread(wish, self._catalog, fit, self._infer)
        environment = await self._environments.ensure(wanted, report)
        await asyncio.to_thread(check_fit, fit, environment)
        spec = launch(models, environment, self._home, self._environ)
        twice = bool(self._catalog.weights_elsewhere(models[0]))
        return replace(spec, config=replace(spec.config, shares_weights=twice))

    def _counted(self, models: Sequence[ModelSpec]) -> list[ModelSpec]:
        models = [resolved(model) for model in models]  # files may have come since the configuration was read
        base = replace(models[0], adapter=None)
        if base.engine != "command":
            self._check(base)
            check_hub_access(base, self._environ)
        return counted(models, self._check)
