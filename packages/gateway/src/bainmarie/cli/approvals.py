"""`bain approvals`: tool calls that wait for a person's decision."""

from __future__ import annotations

import json
import sys

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import json_option, url_option


@click.group()
def approvals() -> None:
    """Decide on tool calls that wait for a person."""


@approvals.command("ls")
@json_option
@url_option
def ls(as_json: bool) -> None:
    """List the calls that wait."""
    from bainmarie.cli.session import need_client

    with need_client() as client:
        told = client.get("/api/approvals")
    waiting = told["approvals"] if isinstance(told, dict) else told
    if as_json:
        terminal.print_json(waiting)
        return
    if not waiting:
        terminal.say("nothing waits for a decision")
        return
    from rich.table import Table

    table = Table("id", "run", "tool", "arguments", box=None, pad_edge=False, header_style="bold")
    for request in waiting:
        arguments = terminal.visible(json.dumps(request["arguments"], ensure_ascii=False))
        table.add_row(str(request["id"]), str(request.get("run_id", "")), request["tool"], arguments)
    terminal.console(sys.stdout).print(table)


@approvals.command()
@click.argument("approval")
@click.option("--session", "scope", flag_value="session", help="Allow this tool for the rest of the run.")
@url_option
def approve(approval: str, scope: str | None) -> None:
    """Let a call run."""
    _decide(approval, {"decision": "approve", "scope": scope or "once"})
    click.echo(f"{approval} is approved")


@approvals.command()
@click.argument("approval")
@click.option("--reason", help="Told to the model.")
@url_option
def deny(approval: str, reason: str | None) -> None:
    """Keep a call from running."""
    _decide(approval, {"decision": "deny", **({"reason": reason} if reason else {})})
    click.echo(f"{approval} is denied")


def _decide(approval: str, decision: dict[str, str]) -> None:
    from bainmarie.cli.session import need_client

    with need_client() as client:
        client.post(f"/api/approvals/{approval}", decision)


COMMANDS = {"approvals": approvals}
