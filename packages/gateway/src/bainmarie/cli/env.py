"""`bain env`: the models' environments, as they are and as they shall be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from bainmarie.cli import env_bundle, env_disk, env_lock, terminal
from bainmarie.cli.options import config_option

if TYPE_CHECKING:
    from bainmarie.environments.environment import Environment
    from bainmarie.environments.spec import EnvironmentSpec


@click.group()
def env() -> None:
    """See and build the models' environments."""


@env.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@config_option
def sync(models: tuple[str, ...]) -> None:
    """Build the environments of MODELs now.

    Without MODEL: those of all models. One that cannot be built keeps no other from being built.
    """
    from bainmarie.cli.known_files import remember
    from bainmarie.cli.loading import load_view
    from bainmarie.cli.place import configuration, home
    from bainmarie.cli.stages import StageClock
    from bainmarie.cli.wishes import wishes
    from bainmarie.environments.fit import check_adapter_fit, check_fit
    from bainmarie.environments.store import EnvironmentStore
    from bainmarie.environments.wish import counted
    from bainmarie.errors import BainError
    from bainmarie.progress import Progress

    catalog = configuration().catalog()
    remember()
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

    worst = 0
    for name, spec in wishes(catalog, models):
        try:
            environment = asyncio.run(build(name, spec))
            fit = counted(catalog.sharing(catalog.get(name)))
            check_fit(fit, environment)
            for adapter in fit[1:]:
                check_adapter_fit(adapter, environment)
        except BainError as error:
            terminal.say(f"{name}: its environment is not ready")
            terminal.show_error(error)
            worst = worst or error.exit_code
            continue
        click.echo(f"{name}: {environment.path or environment.python}")
    if worst:
        raise SystemExit(worst)


for command in (*env_disk.COMMANDS, *env_lock.COMMANDS, *env_bundle.COMMANDS):
    env.add_command(command)
COMMANDS = {"env": env}
