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
from bainmarie.environments.infer import engine_needs
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.errors import BainError
from bainmarie.progress import Report
from bainmarie.workers.launch import LaunchSpec


class Environments(Protocol):
    """What is needed of the store."""

    async def ensure(self, spec: EnvironmentSpec, report: Report) -> Environment:
        """The finished environment, built if need be. EnvironmentFailed."""


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
        wish = await asyncio.to_thread(self._wish, models)
        environment = await self._environments.ensure(wish, report)
        return launch(models, environment, self._home, self._environ)

    def _wish(self, models: Sequence[ModelSpec]) -> EnvironmentSpec:
        base = replace(models[0], adapter=None)
        if base.engine != "command":
            self._check(base)
        if base.environment != "auto":
            named = self._catalog.environments[base.environment]
            return replace(named, needs=engine_needs(base.engine))
        return self._infer([base, *(model for model in models if model.adapter and self._is_fit(model))])

    def _is_fit(self, model: ModelSpec) -> bool:
        """An adapter that is not fit fails alone, when it is loaded."""
        try:
            self._check(model)
        except BainError:
            return False
        return True
