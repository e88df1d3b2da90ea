"""How to start a worker, one file for each engine. A new engine is one file and one row of `_ENGINES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.engines import command, fake, transformers
from bainmarie.environments.environment import Environment
from bainmarie.errors import LoadFailed
from bainmarie.workers.launch import LaunchSpec

Engine = Callable[[Sequence[ModelSpec], Environment, Path, Mapping[str, str]], LaunchSpec]

_ENGINES: dict[str, Engine] = {
    "transformers": transformers.launch,
    "fake": fake.launch,
    "command": command.launch,
}


def engine(name: str) -> Engine:
    """What starts a worker of that engine; LoadFailed where there is no such engine yet.

    Called with the models that share the worker (the base first), their environment, the home, and what the user's own
    environment variables offer, of which little is passed on.
    """
    if name not in _ENGINES:
        raise LoadFailed(
            f"engine {name} is not there yet",
            hint=f"Engines of this release: {', '.join(_ENGINES)}.",
            code="engine_unavailable",
        )
    return _ENGINES[name]
