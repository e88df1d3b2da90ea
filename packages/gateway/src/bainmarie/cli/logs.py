"""`bain logs`: what a model's worker wrote."""

from __future__ import annotations

import click

from bainmarie.cli.options import url_option


@click.command()
@click.argument("model")
@click.option("-f", "--follow", is_flag=True, help="Stay and print what comes.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="Lines to begin with.")
@url_option
def logs(model: str, follow: bool, lines: int) -> None:
    """Show what a model's worker wrote."""
    from bainmarie.cli.session import need_client

    path = f"/api/models/{model}/logs"
    with need_client() as client:
        if not follow:
            click.echo(client.text(path, lines=lines), nl=False)
            return
        with client.lines(path, lines=lines, follow=1) as stream:
            for line in stream:
                click.echo(line)


COMMANDS = {"logs": logs}
