"""`bain env pack|unpack`: an environment as one file, for a machine without network."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Bundle. [default: MODEL.tar.gz]")
@config_option
def pack(model: str, output: Path | None) -> None:
    """Pack MODEL's environment into one file.

    `bain env unpack` makes it again on a machine of the same kind, without network. The model's weights are not in it.
    """
    from bainmarie.cli.place import configuration, home
    from bainmarie.cli.wishes import wish_of
    from bainmarie.environments import bundle
    from bainmarie.environments.disk import written
    from bainmarie.environments.store import EnvironmentStore

    spec = wish_of(configuration().catalog(), model)
    store = EnvironmentStore(home())
    lock = asyncio.run(store.lock(spec, terminal.say_progress))
    environment = asyncio.run(store.ensure(spec, terminal.say_progress))
    assert environment.path is not None, "what has a lock has a directory"
    file = output or Path(f"{model.replace('/', '-').replace(':', '-')}.tar.gz")
    bundle.pack(spec, lock.exported, environment.path, file)
    terminal.say(f"{written(file.stat().st_size)}, {lock.count} packages")
    click.echo(str(file))


@click.command()
@click.argument("file", metavar="BUNDLE", type=click.Path(dir_okay=False, path_type=Path))
@config_option
def unpack(file: Path) -> None:
    """Make the environment of a BUNDLE here.

    Models of the configuration that want just that environment use it from then on.
    """
    from bainmarie.cli.place import configuration, home
    from bainmarie.cli.wishes import wishes
    from bainmarie.environments.bundle import read_bundle
    from bainmarie.environments.store import EnvironmentStore

    wanted = [spec for _, spec in wishes(configuration().catalog(), []) if not spec.python_executable]
    made = asyncio.run(EnvironmentStore(home()).unpack(read_bundle(file), wanted, terminal.say_progress))
    click.echo(f"{made.name}: {made.path}")


COMMANDS = (pack, unpack)
