"""`bain add`: from a folder or hub id to an entry in the configuration."""

from __future__ import annotations

from pathlib import Path

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option, json_option


@click.command()
@click.argument("model", metavar="PATH|ID")
@click.option("--name", help="Name for requests. [default: the last part of PATH or ID]")
@click.option("--base", metavar="PATH|ID", help="The base of an adapter, where its own file names another.")
@click.option("--dry-run", is_flag=True, help="Say what it is, and write nothing.")
@json_option
@config_option
def add(model: str, name: str | None, base: str | None, dry_run: bool, as_json: bool) -> None:
    """Add a model to the configuration.

    Says what PATH is (base, adapter, merged, quantized, GGUF, training checkpoint) and writes the entry; comments in
    the file stay.
    """
    import os

    from bainmarie.cli.place import home
    from bainmarie.environments.detect import detect
    from bainmarie.environments.environment import write_synced
    from bainmarie.settings import config_path
    from bainmarie.settings.edit import model_name, with_model

    found = detect(model, base)
    named = name or model_name(str(Path(model).absolute()) if Path(model).is_dir() else model)
    file = (config_path(None, os.environ, home()) or home() / "bain.yaml").resolve()
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    changed = with_model(text, file, named, found.entry)
    if not dry_run:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_synced(file, changed)
    if as_json:
        told = {"name": named, "kind": found.kind, "file": str(file), "entry": dict(found.entry)}
        terminal.print_json({**told, "remarks": list(found.remarks), "written": not dry_run})
        return
    click.echo(f"{named}: {found.text}")
    for remark in found.remarks:
        click.echo(f"  {remark}")
    click.echo(f"{'would be written' if dry_run else 'written'} to {file}")


COMMANDS = {"add": add}
