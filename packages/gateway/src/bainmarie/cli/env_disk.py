"""`bain env ls|gc`: which environments there are, who uses them, and what they take on the disk."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option, json_option

if TYPE_CHECKING:
    from bainmarie.catalog import Catalog
    from bainmarie.environments.disk import Disk
    from bainmarie.environments.environment import Environment
    from bainmarie.environments.store import EnvironmentStore

SHOWN = ("torch", "transformers", "peft")
"""Packages whose versions stand in the table."""


@click.command()
@json_option
@config_option
def ls(as_json: bool) -> None:
    """List the environments that are built.

    `own` is what a removal would free; the rest is shared with uv's cache and other environments.
    """
    from bainmarie.cli.place import configuration, home
    from bainmarie.environments.disk import disk, written
    from bainmarie.environments.store import EnvironmentStore
    from bainmarie.environments.worker_packages import WORKER

    catalog, store = configuration().catalog(), EnvironmentStore(home())
    environments = store.list()
    users = _users(catalog, store)
    own = _used_as_they_are(catalog)
    sizes = {environment.digest: disk([_path(environment)]) for environment in environments}
    if as_json:
        told = [_told(each, users.get(each.digest, []), sizes[each.digest], store) for each in environments]
        told += [{"name": name, "digest": None, "python": python, "models": models} for name, python, models in own]
        terminal.print_json(told)
        return
    for name, python, models in own:
        terminal.say(f"{name}: {python}, used as it is by {', '.join(models) or 'no model'}")
    if not environments:
        terminal.say("no environment is built yet; one is when a model is first loaded, or with: bain env sync")
        return
    from rich.table import Table

    columns = ("environment", "digest", "python", *SHOWN, "worker", "used by", "disk", "own")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for each in environments:
        versions = [each.versions.get(package, "") for package in SHOWN]
        names = ", ".join(users.get(each.digest, [])) or "-"
        size = sizes[each.digest]
        worker = each.versions.get(WORKER, "none") + ("" if each.worker == store.worker.digest else "*")
        row = (each.name, each.digest[:12], each.python_version, *versions, worker, names)
        table.add_row(*row, written(size.size), written(size.own))
    terminal.console(sys.stdout).print(table)
    if any(each.worker != store.worker.digest for each in environments):
        click.echo("* another bainmarie's: this one makes its own of it, by hard links, when a model wants it")
    total = disk(_path(environment) for environment in environments)
    click.echo(f"together {written(total.size)} in {_path(environments[0]).parent}, each file counted once")


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@json_option
@config_option
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove environments that no model wants, and those of another bainmarie's worker.

    Models are those of the configuration, and of every other configuration file that this home has served, while it
    is there. Never one that a process runs in, that is being built, or that was asked for within minutes.
    """
    from bainmarie.cli.known_files import others
    from bainmarie.cli.place import configuration, home
    from bainmarie.cli.wishes import wishes
    from bainmarie.environments.disk import written
    from bainmarie.environments.store import EnvironmentStore

    wanted = [spec for _, spec in wishes(configuration().catalog(), [])]
    for path, settings in others():
        terminal.say(f"counted too: {path}")
        wanted += [spec for _, spec in wishes(settings.catalog(), [])]
    verdicts = list(EnvironmentStore(home()).sweep(wanted, dry_run=dry_run))
    if as_json:
        rows = [{"digest": v.path.name, "name": v.name, "kept": v.kept or None, "freed": v.freed} for v in verdicts]
        terminal.print_json(rows)
        return
    gone = "would go" if dry_run else "removed"
    for verdict in verdicts:
        name = verdict.name or "(unfinished)"
        click.echo(f"{name} {verdict.path.name[:12]}: {f'kept, {verdict.kept}' if verdict.kept else gone}")
    terminal.say(f"{written(sum(verdict.freed for verdict in verdicts))} {'to be freed' if dry_run else 'freed'}")


def _users(catalog: Catalog, store: EnvironmentStore) -> dict[str, list[str]]:
    """Names of models by the digest of the environment that they use. Says which cannot be told."""
    from bainmarie.cli.wishes import wishes
    from bainmarie.errors import EnvironmentFailed

    users: dict[str, list[str]] = {}
    for name, spec in wishes(catalog, []):
        try:
            environment = store.find(spec)
        except EnvironmentFailed as error:
            terminal.say(f"{name}: {error.message}")
            continue
        if environment:
            models = [model.name for model in catalog.sharing(catalog.get(name))]
            users.setdefault(environment.digest, []).extend(models)
    return users


def _used_as_they_are(catalog: Catalog) -> list[tuple[str, str, list[str]]]:
    """Name, interpreter and models of each environment that the user made."""
    return [
        (name, spec.python_executable, [model.name for model in catalog if model.environment == name])
        for name, spec in catalog.environments.items()
        if spec.python_executable
    ]


def _path(environment: Environment) -> Path:
    assert environment.path is not None, "only what was built is listed"
    return environment.path


def _told(environment: Environment, users: list[str], size: Disk, store: EnvironmentStore) -> dict[str, object]:
    used = store.last_use(environment)
    return {
        "name": environment.name,
        "digest": environment.digest,
        "path": str(environment.path),
        "python": str(environment.python),
        "python_version": environment.python_version,
        "versions": dict(environment.versions),
        "lock": environment.lock,
        "worker": environment.worker or None,
        "created": environment.created,
        "last_used": datetime.fromtimestamp(used).astimezone().isoformat(timespec="seconds") if used else None,
        "models": users,
        "disk_bytes": size.size,
        "own_bytes": size.own,
    }


COMMANDS = (ls, gc)
