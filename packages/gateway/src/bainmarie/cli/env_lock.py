"""`bain env explain|lock|diff`: which packages a model gets, why, and in which versions."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option, json_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bainmarie.catalog import Catalog
    from bainmarie.environments.environment import Environment
    from bainmarie.environments.lock import Lock
    from bainmarie.environments.spec import EnvironmentSpec, Reason
    from bainmarie.environments.store import EnvironmentStore


@click.command()
@click.argument("model")
@json_option
@config_option
def explain(model: str, as_json: bool) -> None:
    """Say which packages MODEL gets, and why.

    Each row has its reason and the file it was read from. Nothing is resolved or built.
    """
    from bainmarie.cli.place import configuration, home
    from bainmarie.cli.wishes import wish_of
    from bainmarie.environments.completing import ADDED
    from bainmarie.environments.store import EnvironmentStore

    spec = wish_of(configuration().catalog(), model)
    built = EnvironmentStore(home()).find(spec)
    rows = [*_rows(spec), *(reason for reason in built.reasons if reason.source == ADDED)] if built else _rows(spec)
    if as_json:
        terminal.print_json(_explained(spec, rows, built))
        return
    from rich.table import Table

    table = Table("package", "version", "why", "from", box=None, pad_edge=False, header_style="bold")
    for reason in rows:
        table.add_row(reason.requirement or "-", _version(reason.requirement, built), reason.why, reason.source)
    terminal.console(sys.stdout).print(table)
    click.echo(f"environment {spec.name}: {_state(spec, built)}")


@click.command()
@click.argument("model")
@config_option
def lock(model: str) -> None:
    """Print the lock of MODEL's environment.

    Keep it in a file and name that file as `lock:` of an environment to get exactly these packages again.
    """
    from bainmarie.cli.place import configuration, home
    from bainmarie.cli.wishes import wish_of
    from bainmarie.environments.lock_file import write_lock_file
    from bainmarie.environments.store import EnvironmentStore

    spec = wish_of(configuration().catalog(), model)
    found = asyncio.run(EnvironmentStore(home()).lock(spec, terminal.say_progress))
    click.echo(write_lock_file(found.exported), nl=False)


@click.command()
@click.argument("a")
@click.argument("b")
@json_option
@config_option
def diff(a: str, b: str, as_json: bool) -> None:
    """Show where two environments differ.

    A and B are models, lock files, or the first letters of a digest.
    """
    from bainmarie.cli.place import configuration, home
    from bainmarie.environments.store import EnvironmentStore
    from bainmarie.environments.worker_packages import WORKER

    catalog, store = configuration().catalog(), EnvironmentStore(home())
    (ours, our_worker), (theirs, their_worker) = (_versions(name, catalog, store) for name in (a, b))
    rows = [
        (name, ours.get(name, ""), theirs.get(name, ""))
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    if our_worker and their_worker and our_worker != their_worker:
        rows.append((WORKER, our_worker, their_worker))
    if as_json:
        terminal.print_json([{"package": name, "a": ours or None, "b": theirs or None} for name, ours, theirs in rows])
        return
    if not rows:
        terminal.say(f"{a} and {b} hold the same versions")
        return
    from rich.table import Table

    table = Table("package", a, b, box=None, pad_edge=False, header_style="bold")
    for name, ours_there, theirs_there in rows:
        table.add_row(name, ours_there or "-", theirs_there or "-")
    terminal.console(sys.stdout).print(table)


def _rows(spec: EnvironmentSpec) -> list[Reason]:
    """Every package with its reason, the worker's own last."""
    from bainmarie.environments.lock import WORKER_NEEDS
    from bainmarie.environments.spec import Reason
    from bainmarie.environments.worker_packages import WORKER, carried_packages

    worker = f"{WORKER}=={carried_packages().version}"
    rows = list(spec.reasons)
    if not rows:
        where = f"environments: {spec.name}: packages"
        rows = [Reason(package, f"`{where}`", "the configuration") for package in spec.packages]
    if spec.lock:
        rows.append(Reason("", "every package and version is that of the lock", spec.lock))
    if spec.python_executable:
        rows.append(Reason("", "an interpreter that is used as it is", spec.python_executable))
        rows.append(Reason("", f"{worker}, this bainmarie's own, is put on the worker's import path", "bainmarie"))
        return rows
    rows += [Reason(need, "every worker needs it", "bainmarie") for need in WORKER_NEEDS if not spec.lock]
    return [*rows, Reason(worker, "this bainmarie's own, from a wheel that it carries", "bainmarie")]


def _explained(spec: EnvironmentSpec, rows: list[Reason], built: Environment | None) -> dict[str, object]:
    return {
        "environment": spec.name,
        "digest": built.digest if built else None,
        "path": str(built.path) if built else None,
        "packages": [
            {"requirement": row.requirement or None, "version": _version(row.requirement, built) or None}
            | {"why": row.why, "source": row.source}
            for row in rows
        ],
    }


def _version(requirement: str, built: Environment | None) -> str:
    """What is installed for a requirement; empty where nothing is built yet."""
    from bainmarie.environments.spec import package_name

    return built.versions.get(package_name(requirement), "") if built else ""


def _state(spec: EnvironmentSpec, built: Environment | None) -> str:
    if spec.python_executable:
        return f"{spec.python_executable}, verified when a model starts"
    return f"built in {built.path}" if built else "not built yet; `bain env sync` builds it"


def _versions(name: str, catalog: Catalog, store: EnvironmentStore) -> tuple[Mapping[str, str], str]:
    """Package versions, and Python's, of what the argument names; and which worker, of which lock files know nothing.

    NotFound.
    """
    from bainmarie.cli.wishes import wish_of
    from bainmarie.environments.lock_file import pins, read_lock_file
    from bainmarie.environments.worker_packages import PACKAGES, WORKER
    from bainmarie.errors import NotFound

    if name in catalog.models:
        spec = wish_of(catalog, name)
        if spec.python_executable:
            environment = asyncio.run(store.ensure(spec, terminal.say_progress))
            versions: Mapping[str, str] = {"python": environment.python_version, **environment.versions}
        else:
            versions = _locked(asyncio.run(store.lock(spec, terminal.say_progress)))
        return versions, f"{store.worker.version} {store.worker.digest[:12]}"
    if Path(name).is_file():
        file = read_lock_file(Path(name), name)
        return {"python": file.python, **pins(file.requirements)}, ""
    found = [environment for environment in store.list() if environment.digest.startswith(name)]
    if len(found) != 1:
        what = "no model, lock file or environment" if not found else "more than one environment"
        raise NotFound(f"there is {what} {name!r}", hint="See: bain ls, bain env ls", code="environment_not_found")
    theirs = {package: version for package, version in found[0].versions.items() if package not in PACKAGES}
    worker = f"{found[0].versions[WORKER]} {found[0].worker[:12]}" if found[0].worker else ""
    return {"python": _minor(found[0].python_version), **theirs}, worker


def _locked(lock: Lock) -> Mapping[str, str]:
    from bainmarie.environments.lock_file import pins

    return {"python": lock.minor, **pins(lock.text)}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


COMMANDS = (explain, lock, diff)
