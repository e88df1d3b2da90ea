"""The model names that this worker answers to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from bainmarie_protocol import ServedModel
from bainmarie_worker.errors import RequestError


class Served:
    """By name. Changed only on the event loop."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def get(self, name: str) -> ServedModel:
        """RequestError 404 names the known ones."""
        if name in self._models:
            return self._models[name]
        near = difflib.get_close_matches(name, self._models, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise RequestError(
            404,
            f"this worker does not serve {name!r}",
            code="model_not_found",
            param="model",
            hint=f"{hint}It serves {', '.join(sorted(self._models)) or 'nothing'}.",
        )

    def add(self, model: ServedModel) -> None:
        """Adds or replaces."""
        self._models[model.name] = model

    def remove(self, name: str) -> str | None:
        """Forgets the name. Returns its adapter if no other name needs it, else None."""
        gone = self._models.pop(name, None)
        if gone is None or gone.adapter in {model.adapter for model in self._models.values()}:
            return None
        return gone.adapter
