"""`bain plan`: what loading a model would take, and whom it would cost."""

from __future__ import annotations

from typing import Any

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import json_option, url_option


@click.command()
@click.argument("model")
@json_option
@url_option
def plan(model: str, as_json: bool) -> None:
    """Say what loading a model would take and evict."""
    from urllib.parse import quote

    from bainmarie.cli.session import need_client

    with need_client() as client:
        told = client.get(f"/api/models/{quote(model)}/plan")
    if as_json:
        terminal.print_json(told)
        return
    for line in lines(told):
        click.echo(line)


def lines(told: dict[str, Any]) -> list[str]:
    """The plan in words."""
    size = terminal.memories(told["memory_bytes"], told["accelerator_bytes"])
    found = [f"{told['model']} is {told['state']}"]
    if told["measured"] and told["state"] == "ready":
        found.append(f"memory: {size}, measured; loading took {told['load_seconds']:.1f} s")
    elif told["measured"]:
        found.append(f"memory: {size}, measured at an earlier load; loading took {told['load_seconds']:.1f} s then")
    else:
        found.append(f"memory: {size}, estimated" if size else "memory: not known before its first load")
    budget = terminal.memories(told["budget_bytes"], told["accelerator_budget_bytes"])
    if not budget:
        found.append("there is no budget (memory.cpu, memory.gpu): nothing would be evicted")
    elif not told["fits"]:
        in_use = [holder for holder in told["stays"] if holder.get("idle_seconds") is None]
        found.append(f"it does not fit into {budget}; held and in use by: {_who(in_use)}")
    else:
        found.append(f"would be evicted: {_who(told['evict'])}")
    return found


def _who(holders: list[dict[str, Any]]) -> str:
    told = (f"{h['names'][0]} ({terminal.memories(h['bytes'], h['accelerator_bytes'])})" for h in holders)
    return ", ".join(told) or "nobody"


COMMANDS = {"plan": plan}
