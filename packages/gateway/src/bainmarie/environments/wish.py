"""Which environment a worker wants: what the configuration names, or what its models' files ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.environments.checkpoint import check_model_files
from bainmarie.environments.infer import engine_needs, infer
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.errors import BainError

Check = Callable[[ModelSpec], None]
Infer = Callable[[Sequence[ModelSpec]], EnvironmentSpec]


def counted(models: Sequence[ModelSpec], check: Check = check_model_files) -> list[ModelSpec]:
    """Of models that share a worker, the base first: the base alone, then the adapters that are fit.

    A broken adapter asks for nothing: it fails alone, when it is loaded.
    """
    return [replace(models[0], adapter=None), *(model for model in models if model.adapter and _is_fit(model, check))]


def wish(catalog: Catalog, models: Sequence[ModelSpec], infer: Infer = infer) -> EnvironmentSpec:
    """The spec for what `counted` gave."""
    base = models[0]
    if base.environment != "auto":
        return replace(catalog.environments[base.environment], needs=engine_needs(base.engine))
    return infer(models)


def _is_fit(model: ModelSpec, check: Check) -> bool:
    try:
        check(model)
    except BainError:
        return False
    return True
