"""`bain doctor`: what is wrong with this machine, and what mends it."""

from __future__ import annotations

import asyncio
import os

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option, json_option

_SIGNS = {"good": "ok  ", "note": "note", "bad": "BAD "}


@click.command()
@json_option
@config_option
def doctor(as_json: bool) -> int:
    """Look for what could keep models from running.

    uv, disk, cache, package indexes, process isolation, accelerator and its memory, environments and models; each
    finding with its remedy. Exit code 5 where something is bad.
    """
    from dataclasses import asdict

    from bainmarie.cli.place import configuration, home
    from bainmarie.environments.doctor import Finding, examine
    from bainmarie.errors import EnvironmentFailed

    async def look() -> list[Finding]:
        found, settings = [], configuration()
        async for finding in examine(settings.catalog(), home(), os.environ, settings.memory.gpu):
            if not as_json:
                click.echo(f"{_SIGNS[finding.grade]}  {finding.subject}: {finding.text}")
                if finding.remedy:
                    click.echo(f"      -> {finding.remedy}")
            found.append(finding)
        return found

    findings = asyncio.run(look())
    if as_json:
        terminal.print_json([asdict(finding) for finding in findings])
    return EnvironmentFailed.exit_code if any(finding.grade == "bad" for finding in findings) else 0


COMMANDS = {"doctor": doctor}
