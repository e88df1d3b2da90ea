"""`bain config`: check the configuration, its schema, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option, json_option

HIDDEN = "(hidden)"


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@json_option
@config_option
def validate(file: Path | None, as_json: bool) -> None:
    """Check the configuration.

    FILE, or the file that the gateway would read. Exit code 3 and the place of the mistake if there is one.
    """
    import os

    from bainmarie.cli.place import home
    from bainmarie.errors import ConfigurationError
    from bainmarie.settings import config_path, load_settings

    path = config_path(file, os.environ, home())
    try:
        settings = load_settings(path, os.environ)
    except ConfigurationError as error:
        if as_json:
            terminal.print_json({"valid": False, "file": str(path), **error.to_json()})
        raise
    notices = settings.notices()
    if as_json:
        models = [spec.name for spec in settings.catalog()]
        terminal.print_json({"valid": True, "file": str(path) if path else None, "models": models, "notices": notices})
        return
    for notice in notices:
        terminal.say(notice)
    click.echo(f"{path} is valid" if path else "there is no configuration file: the built-in settings apply")


@config.command()
def schema() -> None:
    """Print the configuration's JSON Schema."""
    from bainmarie.settings import json_schema

    terminal.print_json(json_schema())


@config.command()
@config_option
def show() -> None:
    """Print the configuration with all defaults filled in, as JSON. Keys and tokens are not shown."""
    import json

    from bainmarie.cli.place import configuration

    shown = json.loads(configuration().model_dump_json(by_alias=True))
    shown["gateway"]["api_keys"] = [HIDDEN for _ in shown["gateway"]["api_keys"]]
    if (shown["tools"].get("tool_server") or {}).get("token"):
        shown["tools"]["tool_server"]["token"] = HIDDEN
    terminal.print_json(shown)


COMMANDS = {"config": config}
