"""`bain env`: the models' environments, as they are and as they shall be."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from bainmarie.cli import env_lock, terminal
from bainmarie.cli.options import config_option, json_option

if TYPE_CHECKING:
    from bainmarie.environments.environment import Environment
    from bainmarie.environments.spec import EnvironmentSpec

SHOWN = ("torch", "transformers", "peft")
"""Packages whose versions stand in the table."""


@click.group()
def env() -> None:
    """See and build the models' environments."""


@env.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the environments that are built."""
    from bainmarie.cli.place import home
    from bainmarie.environments.store import EnvironmentStore

    environments = EnvironmentStore(home()).list()
    if as_json:
        terminal.print_json([_told(environment) for environment in environments])
        return
    if not environments:
        terminal.say("no environment is built yet; one is when a model is first loaded, or with: bain env sync")
        return
    from rich.table import Table

    table = Table("environment", "digest", "python", *SHOWN, "path", box=None, pad_edge=False, header_style="bold")
    for environment in environments:
        versions = [environment.versions.get(package, "") for package in SHOWN]
        path = str(environment.path or environment.python)
        table.add_row(environment.name, environment.digest[:12], environment.python_version, *versions, path)
    terminal.console(sys.stdout).print(table)


@env.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@config_option
def sync(models: tuple[str, ...]) -> None:
    """Build the environments of MODELs now.

    Without MODEL: those of all models.
    """
    from bainmarie.cli.loading import load_view
    from bainmarie.cli.place import configuration, home
    from bainmarie.cli.stages import StageClock
    from bainmarie.cli.wishes import wishes
    from bainmarie.environments.store import EnvironmentStore
    from bainmarie.progress import Progress

    catalog = configuration().catalog()
    store = EnvironmentStore(home())

    async def build(name: str, spec: EnvironmentSpec) -> Environment:
        clock = StageClock()
        with load_view() as view:

            def report(progress: Progress) -> None:
                told = {"stage": progress.stage, "fraction": progress.fraction, "detail": progress.detail}
                status: dict[str, Any] = {"id": name, "state": "preparing", "progress": told}
                clock.see(status)
                view.show(status, clock)

            return await store.ensure(spec, report)

    for name, spec in wishes(catalog, models):
        environment = asyncio.run(build(name, spec))
        click.echo(f"{name}: {environment.path or environment.python}")


def _told(environment: Environment) -> dict[str, object]:
    return {
        "name": environment.name,
        "digest": environment.digest,
        "path": str(environment.path) if environment.path else None,
        "python": str(environment.python),
        "python_version": environment.python_version,
        "versions": dict(environment.versions),
        "created": environment.created,
    }


for command in env_lock.COMMANDS:
    env.add_command(command)
COMMANDS = {"env": env}
