"""What a new catalog means for the workers of the old one: a pure function."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bainmarie.catalog import Catalog, ModelSpec

Sharing = tuple[ModelSpec, ...]


@dataclass(frozen=True)
class Changes:
    """By worker key."""

    kept: Mapping[str, Sharing]
    """Their process goes on; the models as they are now."""
    ended: tuple[str, ...]
    """Of the old catalog."""
    begun: Mapping[str, tuple[Sharing, tuple[str, ...]]]
    """The models, and the old workers that must be gone before: the same key, or one of the same names."""


def changes(old: Catalog, new: Catalog) -> Changes:
    """A worker is kept where all is the same but what the gateway alone decides: how long it stays, how many queue."""
    before, after = _sharing(old), _sharing(new)
    kept = {
        key: models for key, models in after.items() if key in before and _what(new, models) == _what(old, before[key])
    }
    ended = tuple(key for key in before if key not in kept)
    begun = {
        key: (models, tuple(e for e in ended if e == key or _names(before[e]) & _names(models)))
        for key, models in after.items()
        if key not in kept
    }
    return Changes(kept, ended, begun)


def identity(catalog: Catalog, models: Sharing) -> str:
    """Two workers with the same one are interchangeable, whichever gateway has started them."""
    return hashlib.sha256(repr(_what(catalog, models)).encode()).hexdigest()


def _sharing(catalog: Catalog) -> dict[str, Sharing]:
    return {model.worker_key: catalog.sharing(model) for model in catalog}


def _what(catalog: Catalog, models: Sharing) -> object:
    """All that a running process depends on."""
    free: dict[str, Any] = {"keep_alive": None, "parallel": None, "queue": None, "memory": None}
    plain = [replace(model, preload=False, pinned=False, **free) for model in models]
    return plain, catalog.environments.get(models[0].environment)


def _names(models: Sharing) -> set[str]:
    return {model.name for model in models}
