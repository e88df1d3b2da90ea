"""`bain status`: every model's state, with the cause where one has failed."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import json_option, url_option
from bainmarie.cli.stages import stage_of

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"ready": "green", "failed": "red", "preparing": "yellow", "starting": "yellow", "loading": "yellow"}


@click.command()
@json_option
@url_option
def status(as_json: bool) -> None:
    """Show every model's state."""
    from bainmarie.cli.session import need_client

    with need_client() as client:
        told = client.get("/api/status")
    if as_json:
        terminal.print_json(told)
        return
    gateway = told["gateway"]
    console = terminal.console(sys.stdout)
    console.print(f"gateway {gateway['version']} at {gateway['address']}, pid {gateway['pid']}, home {gateway['home']}")
    if told["configuration"]["error"]:
        console.print(f"configuration, not taken over: {told['configuration']['error']}", style="red")
    if late := told["configuration"]["needs_restart"]:
        sections = ", ".join(late)
        console.print(f"configuration: what changed in {sections} waits for a restart of the gateway", style="yellow")
    console.print()
    console.print(table(told["models"], datetime.now(UTC)))
    for line, names in {**ways(told["models"]), **limits(told["models"])}.items():
        console.print(f"{', '.join(names)}: {line}", style="dim")
    for server in told["fork_servers"]:
        console.print()
        console.print(fork_server(server))
    for model in told["models"]:
        error = model.get("last_error")
        if model["state"] == "failed" and error:
            console.print()
            console.print(f"{model['id']}: {error['message']}", style="red")
            if error.get("hint"):
                console.print(f"  hint: {error['hint']}")
            if error.get("retry_at"):
                console.print(f"  next try: {until(error['retry_at'], datetime.now(UTC))}")


def table(models: list[dict[str, Any]], now: datetime) -> Table:
    """The models as a table; columns that are empty for all of them are left out."""
    from rich.table import Table
    from rich.text import Text

    columns = ("model", "state", "engine", "environment", "pid", "memory", "in flight", "last used")
    rows = [
        (
            Text(model["id"], style="bold"),
            Text(_state(model), style=STYLES.get(model["state"], "dim")),
            Text(model["engine"]),
            Text(model["environment"]),
            Text(str(model["pid"] or "")),
            Text(terminal.memories(model["memory_bytes"], model.get("accelerator_bytes") or {})),
            Text(_flight(model)),
            Text(ago(model["last_used_at"], now)),
        )
        for model in models
    ]
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    shown = [index for index in range(len(columns)) if any(row[index].plain for row in rows)]
    for index in shown:
        right = columns[index] in ("pid", "memory")
        drawn.add_column(columns[index], justify="right" if right else "left", no_wrap=columns[index] != "state")
    for row in rows:
        drawn.add_row(*(row[index] for index in shown))
    return drawn


def ways(models: list[dict[str, Any]]) -> dict[str, list[str]]:
    """How the engine computes the loaded models, and why in no faster way; each with the models that it holds for."""
    found: dict[str, list[str]] = {}
    for model in models:
        info = model.get("info") or {}
        if info.get("engine_path"):
            why = f" ({info['engine_path_reason']})" if info.get("engine_path_reason") else ""
            found.setdefault(f"computed by the path {info['engine_path']}{why}", []).append(str(model["id"]))
    return found


def limits(models: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What the workers say that they cannot do, each with the models that it holds for."""
    found: dict[str, list[str]] = {}
    for model in models:
        for limit in (model.get("info") or {}).get("limits") or []:
            found.setdefault(str(limit), []).append(str(model["id"]))
    return found


def fork_server(server: dict[str, Any]) -> str:
    """One line: it holds memory, so it is not hidden."""
    workers = "1 worker" if server["workers"] == 1 else f"{server['workers']} workers"
    held = terminal.memory(server["memory_bytes"]) or "memory not measured yet"
    return f"fork server of environment {server['environment']}: pid {server['pid']}, {held}, {workers}"


def ago(moment: str | None, now: datetime) -> str:
    """An ISO time as `12 s ago`; empty for none."""
    if not moment:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def until(moment: str, now: datetime) -> str:
    """When a request may start a model that has failed: the ISO time from which it may, in words."""
    seconds = math.ceil((datetime.fromisoformat(moment) - now).total_seconds())
    return f"a request in {seconds} s or later" if seconds > 0 else "the next request"


def _state(model: dict[str, Any]) -> str:
    stage = stage_of(model)
    fraction = (model.get("progress") or {}).get("fraction")
    if not stage:
        return str(model["state"])
    return f"{stage} {fraction:.0%}" if fraction is not None else stage


def _flight(model: dict[str, Any]) -> str:
    waiting = f" +{model['queued']} queued" if model["queued"] else ""
    return f"{model['in_flight']}{waiting}" if model["in_flight"] or waiting else ""


COMMANDS = {"status": status}
