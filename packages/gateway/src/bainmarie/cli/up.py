"""`bain up`, `bain down`: the gateway's life."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option
from bainmarie.errors import BainError, GatewayUnreachable

if TYPE_CHECKING:
    import psutil

    from bainmarie.api.parts import GatewayInfo
    from bainmarie.settings import Settings

STOP_SECONDS = 30.0
"""How long `down` waits for requests to end before the gateway is killed."""
KILL_SECONDS = 10.0
"""How long a killed gateway may take to be gone, its memory given back."""
COLLECT_SECONDS = 3.0
"""How long the number of a dead gateway may stay taken; some systems collect orphans once a second."""


@click.command()
@click.option(
    "--replace",
    is_flag=True,
    help="Take the place and the address of the gateway that runs; loaded models stay loaded, and no request fails.",
)
@click.option("--detach", is_flag=True, help="Start it in the background and return when it serves.")
@click.option("--host", help="Address to listen on. [default: the configuration's, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes a free one. [default: the configuration's, 8484]")
@config_option
@click.option("--announce", is_flag=True, hidden=True, help="Say the address as JSON on stdout, for programs.")
@click.option("--lifeline", is_flag=True, hidden=True, help="As --announce, and end when stdin is closed.")
def up(replace: bool, detach: bool, host: str | None, port: int | None, announce: bool, lifeline: bool) -> None:
    """Start the gateway.

    It stays in the foreground until Ctrl-C. With --detach it stays until `bain down`.
    """
    if replace and (host, port) != (None, None):
        raise click.UsageError("--replace keeps the address: it goes without --host and --port")
    if detach:
        _detach(host, port, replace=replace)
        return
    try:
        _serve(host, port, announce=announce or lifeline, lifeline=lifeline, replace=replace)
    except BainError as error:
        if announce or lifeline:
            click.echo(json.dumps({**error.to_json(), "status": error.status}))
        raise


@click.command()
def down() -> None:
    """Stop the gateway.

    Requests in flight end first; every worker is gone when this returns.
    """
    import psutil

    from bainmarie.cli.place import running

    found = running()
    if found is None:
        terminal.say("no gateway is running")
        return
    with suppress(psutil.NoSuchProcess):  # It ended by itself: what was asked for is so.
        process = psutil.Process(found.pid)
        process.terminate()
        if not _ended(process, STOP_SECONDS):
            terminal.say(f"the gateway (pid {found.pid}) did not end within {STOP_SECONDS:.0f} s: it is killed")
            process.kill()
            if not _ended(process, KILL_SECONDS):
                raise BainError(
                    f"the gateway (pid {found.pid}) is still there {KILL_SECONDS:.0f} s after it was killed",
                    hint="It hangs in the kernel, in a disk or a driver: see the system's log.",
                )
    click.echo(f"the gateway at {found.address} is stopped")


def _ended(process: psutil.Process, seconds: float) -> bool:
    """Whether it ended within that time.

    A dead process keeps its number until its parent collects it. That is not awaited for long: the first process of a
    container may never do it.
    """
    import psutil

    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        process.wait(COLLECT_SECONDS)
    return True


def _detach(host: str | None, port: int | None, *, replace: bool) -> None:
    from bainmarie.cli.place import gateway_log, running
    from bainmarie.cli.spawn import start_detached

    found = running()
    if found is not None and not replace:
        click.echo(f"the gateway is up already: pid {found.pid}, {found.address}")
        return
    arguments = [] if host is None else ["--host", host]
    arguments += [] if port is None else ["--port", str(port)]
    arguments += ["--replace"] if found is not None else []
    pid, address = start_detached(arguments)
    in_place = f" in place of pid {found.pid}" if found is not None else ""
    click.echo(f"the gateway is up{in_place}: pid {pid}, {address}")
    terminal.say(f"log: {gateway_log()}; stop it with: bain down", dim=True)


def _serve(host: str | None, port: int | None, *, announce: bool, lifeline: bool, replace: bool) -> None:
    import logging

    from bainmarie.cli.known_files import remember
    from bainmarie.cli.place import configuration, home, running
    from bainmarie.gateway import serve

    settings = configuration()
    remember()
    for notice in settings.notices():
        terminal.say(notice)

    def shown(info: GatewayInfo) -> None:
        _show(info, settings)

    if not announce:
        # What a person reads in the foreground is said by `_show`; the log is for what went wrong.
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    replaced = serve(
        settings,
        home(),
        host=host,
        port=port,
        lifeline=sys.stdin.fileno() if lifeline else None,
        ready=_announce if announce else shown,
        replaces=_wait_for if replace and running() is not None else None,
    )
    if not announce:
        terminal.say("another gateway has taken over" if replaced else "the gateway is stopped")


def _wait_for(models: list[str]) -> None:
    terminal.say(f"the gateway that runs hands over once these are loaded or gone: {', '.join(models)}")


def _show(info: GatewayInfo, settings: Settings) -> None:
    """Say where it listens and what it serves, and from then on how models load."""
    names = ", ".join(spec.name for spec in settings.catalog())
    terminal.say(f"bainmarie {info.version} serves at {info.address}")
    terminal.say(f"models: {names}")
    keys = settings.gateway.api_keys
    threading.Thread(target=_follow, args=(info.address, keys[0] if keys else None), daemon=True).start()


def _follow(address: str, key: str | None) -> None:
    """A line for each step of each load, until the gateway stops."""
    from bainmarie.cli.client import Client
    from bainmarie.cli.loading import Lines
    from bainmarie.cli.stages import StageClock

    lines = Lines()
    clocks: dict[str, StageClock] = {}
    with Client(address, lambda: key) as client, suppress(GatewayUnreachable):  # It stops: that is said elsewhere.
        with client.events("GET", "/api/events") as stream:
            for event in stream:
                if event.name == "snapshot":  # the first one: no step is missed from here on
                    terminal.say("Ctrl-C stops it", dim=True)
                if event.name == "model":
                    clock = clocks.setdefault(event.data["id"], StageClock())
                    clock.see(event.data)
                    lines.show(event.data, clock)
                    if event.data["state"] in ("ready", "failed", "unloaded"):
                        clocks.pop(event.data["id"])


def _announce(info: GatewayInfo) -> None:
    """Say the address on stdout, and let go of it: the reader has what it waits for."""
    click.echo(json.dumps({"address": info.address, "pid": info.pid}))
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


COMMANDS = {"up": up, "down": down}
