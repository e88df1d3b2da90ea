"""Settings of the transformers engine: `options` of a model in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bainmarie_worker.errors import LoadError

PATHS = ("auto", "fused", "captured", "packed", "apart", "generate")


@dataclass(frozen=True)
class EngineOptions:
    """All have defaults that fit; they exist for measuring, and for machines that are short of memory."""

    cache_bytes: int | None = None
    """Memory for keys and values of running and ended sequences; None: a part of what is free after the load."""
    prepack: bool | None = None
    """Give linear layers the layout of this processor's kernels. It is a copy: no memory is shared with other workers
    of the same checkpoint then. None: unless there are such workers."""
    speculate: bool = True
    """Guess tokens from the prompt where that pays."""
    path: str = "auto"
    """`auto` takes the best way that the model can go; else fused | captured | packed | apart | generate."""

    @staticmethod
    def read(options: Mapping[str, Any]) -> EngineOptions:
        """LoadError `bad_option` for an unknown name or a value of the wrong type."""
        known = {one.name: one for one in fields(EngineOptions)}
        for name, value in options.items():
            if name not in known:
                raise LoadError("bad_option", f"unknown option {name!r}", f"Known options: {', '.join(known)}.")
            kind = {"cache_bytes": int, "path": str}.get(name, bool)
            if type(value) is not kind or (isinstance(value, int) and value < 0):
                raise LoadError("bad_option", f"the option {name} cannot be {value!r}", f"It takes {kind.__name__}.")
        made = EngineOptions(**options)
        if made.path not in PATHS:
            raise LoadError(
                "bad_option", f"the option path cannot be {made.path!r}", f"It takes one of {', '.join(PATHS)}."
            )
        return made
