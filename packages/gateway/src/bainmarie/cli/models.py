"""`bain ls`, `load`, `unload`, `restart`: which models there are, and which are in memory."""

from __future__ import annotations

import sys
from typing import Any

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option, json_option, url_option


@click.command()
@json_option
@config_option
@url_option
def ls(as_json: bool) -> None:
    """List the models.

    Without a running gateway: those of the configuration.
    """
    from bainmarie.cli import session

    client = session.find()
    models = _configured() if client is None else _known(client.get("/api/status"))
    if as_json:
        terminal.print_json(models)
        return
    from rich.table import Table

    table = Table("model", "state", "engine", "environment", box=None, pad_edge=False, header_style="bold")
    for model in models:
        table.add_row(model["id"], model["state"], model["engine"], model["environment"])
    terminal.console(sys.stdout).print(table)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@url_option
def load(models: tuple[str, ...]) -> None:
    """Load models and keep them warm."""
    from bainmarie.cli.loading import load as load_models
    from bainmarie.cli.session import need_client

    with need_client() as client:
        loads = load_models(client, models)
    errors = [loaded.error for loaded in loads if loaded.error is not None]
    for loaded in loads:
        if loaded.error is None:
            took = f" after {terminal.duration(loaded.clock.total)}" if loaded.clock.total else ""
            click.echo(f"{loaded.name} is ready{took}")
    for error in errors[:-1]:
        terminal.show_error(error)
    if errors:
        raise errors[-1]


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@url_option
def unload(models: tuple[str, ...]) -> None:
    """Free the memory of models."""
    from bainmarie.cli.session import need_client

    with need_client() as client:
        for model in models:
            client.post("/models/unload", {"model": model})
            click.echo(f"{model} is unloaded")


@click.command()
@click.argument("model")
@url_option
def restart(model: str) -> None:
    """Stop a model's worker and load it anew."""
    from bainmarie.cli.loading import ensure_ready
    from bainmarie.cli.session import need_client

    with need_client() as client:
        client.post("/models/unload", {"model": model})
        (loaded,) = ensure_ready(client, [model])
    click.echo(f"{model} is ready after {terminal.duration(loaded.clock.total)}")


def _known(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: model[key] for key in ("id", "state", "engine", "environment")} for model in status["models"]]


def _configured() -> list[dict[str, Any]]:
    from bainmarie.cli.place import configuration

    return [
        {"id": spec.name, "state": "unloaded", "engine": spec.engine, "environment": spec.environment}
        for spec in configuration().catalog()
    ]


COMMANDS = {"ls": ls, "load": load, "unload": unload, "restart": restart}
