"""The environments that models of the configuration want, for commands that name models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bainmarie.catalog import Catalog
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.wish import counted, wish
from bainmarie.errors import BadRequest


def wishes(catalog: Catalog, names: Sequence[str]) -> Iterator[tuple[str, EnvironmentSpec]]:
    """One environment for each worker of these models (of all where none is named), under its first model's name."""
    chosen = [catalog.get(name) for name in names] or list(catalog)
    seen: set[str] = set()
    for model in chosen:
        if model.engine == "command" or model.worker_key in seen:
            continue
        seen.add(model.worker_key)
        group = catalog.sharing(model)
        yield group[0].name, wish(catalog, counted(group))


def wish_of(catalog: Catalog, name: str) -> EnvironmentSpec:
    """The environment of one model. NotFound; BadRequest for a model that has none."""
    for _, spec in wishes(catalog, [name]):
        return spec
    raise BadRequest(f"model {name!r} is a command of your own: it has no environment", code="no_environment")
