"""`bain import`: a file of the old form becomes a bain.yaml."""

from __future__ import annotations

from pathlib import Path

import click

from bainmarie.cli import terminal


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there. [default: stdout]")
def import_(file: Path, output: Path | None) -> None:
    """Turn a file of the old form into a configuration.

    FILE holds `models: NAME: {base_model, adapter_dir, model_type, port, use_4bit, system_prompt}`. What it cannot
    carry over is listed on stderr.
    """
    from bainmarie.environments.environment import write_synced
    from bainmarie.errors import BadRequest
    from bainmarie.settings.old_form import import_old

    if output is not None and output.exists():
        raise BadRequest(
            f"{output} is there already", hint="Name another file, or remove that one.", code="file_exists"
        )
    imported = import_old(file, output or Path("bain.yaml"))
    if output is None:
        click.echo(imported.text, nl=False)
    else:
        write_synced(output.absolute(), imported.text)
        terminal.say(f"written to {output}")
    for line in imported.left:
        terminal.say(f"look at {line}")


COMMANDS = {"import": import_}
