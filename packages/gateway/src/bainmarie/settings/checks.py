"""Rules between several keys: what the shape alone cannot say."""

from __future__ import annotations

from collections.abc import Iterator

from bainmarie.settings.builtin import BUILT_IN
from bainmarie.settings.document import KeyPath, Problem
from bainmarie.settings.explain import dotted, nearest
from bainmarie.settings.shape import EXCLUDED, EnvironmentSettings, File, McpServer, ModelSettings

_WHY = {
    "python_executable": "an existing interpreter is never changed",
    "lock": "a lock says all of it",
}


def check(file: File) -> Iterator[Problem]:
    """Every problem of a file whose shape is right."""
    yield from _environment_named(file.defaults.environment, ("defaults", "environment"), file)
    for name, model in file.models.items():
        yield from _model(name, model, file)
    for name, environment in file.environments.items():
        yield from _environment(name, environment)
    for name, server in file.tools.mcp_servers.items():
        yield from _mcp_server(name, server)


def _model(name: str, model: ModelSettings, file: File) -> Iterator[Problem]:
    path: KeyPath = ("models", name)
    if model.environment is not None:
        yield from _environment_named(model.environment, (*path, "environment"), file)
    if model.engine == "command":
        if model.command is None:
            yield Problem((*path, "engine"), f"{dotted(path)}: the engine 'command' needs the key 'command'")
        elif not any(word in argument for argument in model.command for word in ("{port}", "{socket}")):
            message = f"{dotted(path)}.command: it needs '{{port}}' or '{{socket}}': where the server shall listen"
            yield Problem((*path, "command"), message)
        if model.environment == "auto":
            message = f"{dotted(path)}: what a command needs is not known: name an environment, or leave the key out"
            yield Problem((*path, "environment"), message)
        return
    for key in ("command", "health"):
        if getattr(model, key) is not None:
            yield Problem((*path, key), f"{dotted((*path, key))}: only the engine 'command' has this key", at_key=True)
    if model.device_map is not None and model.device != "auto":
        message = f"{dotted(path)} has both 'device_map' and 'device': the map needs `device: auto`"
        yield Problem((*path, "device_map"), message, at_key=True)
    if model.engine == "transformers" and model.model is None and name not in BUILT_IN:
        yield Problem(path, f"{dotted(path)} needs the key 'model': a directory or a hub id", at_key=True)


def _environment(name: str, environment: EnvironmentSettings) -> Iterator[Problem]:
    path: KeyPath = ("environments", name)
    if name == "auto":
        yield Problem(path, "the environment name 'auto' is taken: it stands for inferred packages", at_key=True)
    for given, excluded in EXCLUDED.items():
        if getattr(environment, given) is None:
            continue
        for key in excluded:
            if getattr(environment, key) is not None:
                message = f"{dotted(path)} has both {given!r} and {key!r}: {_WHY[given]}"
                yield Problem((*path, key), message, at_key=True)


def _mcp_server(name: str, server: McpServer) -> Iterator[Problem]:
    path: KeyPath = ("tools", "mcp_servers", name)
    if (server.command is None) == (server.url is None):
        yield Problem(path, f"{dotted(path)} needs either 'command' or 'url'", at_key=True)


def _environment_named(name: str, path: KeyPath, file: File) -> Iterator[Problem]:
    if name != "auto" and name not in file.environments:
        known = ["auto", *file.environments]
        hint = nearest(name, known) or f"; known: {', '.join(known)}"
        yield Problem(path, f"{dotted(path)}: there is no environment {name!r}{hint}")
