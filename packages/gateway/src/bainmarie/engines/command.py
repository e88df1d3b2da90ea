"""Any server that the user starts: a command with `{port}` or `{socket}`, and a path that says when it is ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.engines.python_worker import log_path, served
from bainmarie.environments.environment import Environment
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.variables import worker_variables
from bainmarie.errors import LoadFailed
from bainmarie.workers.launch import Door, LaunchSpec
from bainmarie.workers.ports import free_port
from bainmarie.workers.sockets import socket_path
from bainmarie_protocol import WorkerConfig

NO_ENVIRONMENT = Environment(name="", digest="", python=Path())
"""A command without an environment finds its programs as the user's own shell does."""


def launch(models: Sequence[ModelSpec], environment: Environment, home: Path, environ: Mapping[str, str]) -> LaunchSpec:
    """The command with a new port or the worker's socket filled in. LoadFailed where the system has no unix sockets.

    Without an environment it gets the user's own variables but for ours; with one, what every worker there gets.
    """
    model = models[0]
    wanted = any("{socket}" in argument for argument in model.command)
    socket = socket_path(home, model.worker_key) if wanted else ""
    if wanted and not socket:
        raise LoadFailed(
            f"model {model.name!r}: this system has no unix sockets",
            hint="Use {port} in the command.",
            code="no_unix_sockets",
        )
    port = 0 if wanted else free_port()
    return LaunchSpec(
        argv=tuple(_filled(argument, model.name, port, socket) for argument in model.command),
        env=_variables(environment, environ),
        config=WorkerConfig(model.name, model.engine, "", tuple(served(m) for m in models), socket=socket),
        log=log_path(models, home),
        cwd=Path(model.folder) if model.folder else home,
        environment=environment.digest,
        door=Door(model.health, port),
    )


def _filled(argument: str, name: str, port: int, socket: str) -> str:
    # Not str.format: other braces in a command are its own.
    return argument.replace("{port}", str(port)).replace("{socket}", socket).replace("{name}", name)


def _variables(environment: Environment, environ: Mapping[str, str]) -> dict[str, str]:
    if environment is NO_ENVIRONMENT:
        return {name: value for name, value in environ.items() if not name.startswith("BAIN_")}
    wish = EnvironmentSpec(name=environment.name, variables=tuple(environment.variables.items()))
    return worker_variables(environment, wish, environ)
