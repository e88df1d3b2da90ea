"""`bain demo`: the whole way once, with the time of each step."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option, url_option

if TYPE_CHECKING:
    from rich.console import Console

    from bainmarie.cli.asking import Decision
    from bainmarie.cli.client import Client

MODEL = "demo"
QUESTION = "Who are you?"
CHAIN = "Start with 17, add 5, then multiply the result by 3, subtract 4, add 100, multiply by 2, then subtract 7."
WRITING = 'Write "hello" to greeting.txt.'
WRITTEN = "greeting.txt"
OTHER_COLUMNS = 46
"""Width of the turns' table without the calls."""


@dataclass
class Times:
    """Seconds by step, in the order in which they came."""

    steps: dict[str, float] = field(default_factory=dict)
    turns: list[tuple[str, Mapping[str, Any], str]] = field(default_factory=list)
    """(task, the timing of one iteration, its calls)."""


@click.command()
@config_option
@url_option
def demo() -> None:
    """See it work: the demo model answers and uses tools.

    Builds the demo model's environment where there is none, and stays up until Ctrl-C. Without a terminal it
    approves no call and ends after the last one.
    """
    from bainmarie.cli.session import gateway_session

    times = Times()
    console = terminal.console(sys.stdout)
    attended = sys.stdin.isatty() and sys.stdout.isatty()
    begin = monotonic()
    with gateway_session() as session:
        times.steps["gateway"] = monotonic() - begin
        _load(session.client, console, times)
        _answer(session.client, console, times)
        _chain(session.client, console, times)
        _write(session.client, console, times, attended)
        _tables(console, times)
        stays = _farewell(session.client.url, console, attended, started=session.started)
        if stays:
            _until_interrupted()


def _load(client: Client, console: Console, times: Times) -> None:
    from bainmarie.cli.loading import ensure_ready
    from bainmarie.cli.smoke import describe

    _title(console, "1", "The model's environment, its process, its weights")
    (loaded,) = ensure_ready(client, [MODEL])
    times.steps.update(loaded.clock.seconds)
    status = next(model for model in client.get("/api/status")["models"] if model["id"] == MODEL)
    console.print(describe(status.get("info") or {}), style="dim")


def _answer(client: Client, console: Console, times: Times) -> None:
    from bainmarie.cli.generate import pieces

    _title(console, "2", "An answer")
    _asked(console, QUESTION)
    begin = monotonic()
    first = 0.0
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    for piece in pieces(client, body):
        first = first or monotonic() - begin
        click.echo(terminal.visible(piece), nl=False)
    click.echo()
    times.steps["first token"] = first
    times.steps["first answer"] = monotonic() - begin


def _chain(client: Client, console: Console, times: Times) -> None:
    _title(console, "3", "Six calls, each of which needs the one before")
    _asked(console, CHAIN)
    with tempfile.TemporaryDirectory(prefix="bain-demo-") as workspace:
        _run(client, CHAIN, Path(workspace), times, "chain", _decide)


def _write(client: Client, console: Console, times: Times, attended: bool) -> None:
    _title(console, "4", "A call that needs your approval")
    _asked(console, WRITING)
    with tempfile.TemporaryDirectory(prefix="bain-demo-") as folder:
        workspace = Path(folder)
        _run(client, WRITING, workspace, times, "approval", _decide if attended else _deny)
        file = workspace / WRITTEN
        found = f"holds {file.read_text()!r}" if file.exists() else "was not written"
        console.print(f"{WRITTEN} in the workspace {found}", style="dim")


def _run(client: Client, prompt: str, workspace: Path, times: Times, name: str, decide: Any) -> None:
    from bainmarie.cli.run import outcome
    from bainmarie.cli.runs import Watcher, watch_run
    from bainmarie.cli.transcript import Transcript, call_text

    transcript = Transcript(text=sys.stdout, calls=sys.stdout)
    calls: dict[int, list[str]] = {}

    def item(told: dict[str, Any]) -> None:
        transcript.item(told)
        if told["type"] == "tool_call":
            calls.setdefault(told["iteration"], []).append(call_text(told["name"], told["arguments"]))

    request = {
        "model": MODEL,
        "prompt": prompt,
        "workspace": str(workspace),
        "temperature": 0,
        "rules": [{"tool": "calculator", "action": "allow"}],
        "max_iterations": 12,
    }
    done = watch_run(client, request, Watcher(decide, item, transcript.delta))
    transcript.end_line()
    outcome(done)
    for timing in done["timings"]:
        times.turns.append((name, timing, ", ".join(calls.get(timing["iteration"], ["the answer"]))))


def _decide(tool: str, arguments: Mapping[str, Any]) -> Decision:
    from bainmarie.cli.run import ask_or_deny

    return ask_or_deny(tool, arguments)


def _deny(tool: str, arguments: Mapping[str, Any]) -> Decision:
    from bainmarie.cli.asking import Decision

    click.echo(f"Nobody is at the terminal, so {tool} is not approved.")
    return Decision(False)


def _tables(console: Console, times: Times) -> None:
    from rich.table import Table

    _title(console, "5", "Where the time went")
    steps = Table(box=None, pad_edge=False, header_style="bold")
    steps.add_column("step", no_wrap=True)
    steps.add_column("time", justify="right", no_wrap=True)
    for step, seconds in times.steps.items():
        steps.add_row(step, terminal.duration(seconds))
    console.print(steps)
    console.print()
    turns = Table(box=None, pad_edge=False, header_style="bold")
    turns.add_column("run", no_wrap=True)
    turns.add_column("turn", justify="right", no_wrap=True)
    turns.add_column("call", no_wrap=True)
    for heading in ("model", "tools", "overhead"):
        turns.add_column(heading, justify="right", no_wrap=True)
    last = ""
    for name, timing, calls in times.turns:
        turns.add_row(
            name if name != last else "",
            str(timing["iteration"]),
            terminal.shorten(calls, max(20, console.width - OTHER_COLUMNS)),
            *(terminal.precise(timing[f"{part}_seconds"]) for part in ("model", "tool", "overhead")),
        )
        last = name
    console.print(turns)


def _farewell(url: str, console: Console, attended: bool, *, started: bool) -> bool:
    """Say where the API is. True if the demo shall stay up."""
    console.print()
    console.print(f"The API: {url}", style="bold")
    question = '{"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}'
    lines = (f"  curl {url}/v1/chat/completions", "-H 'Content-Type: application/json'", f"-d '{question}'")
    click.echo(" \\\n    ".join(lines))
    if not started:
        console.print("This gateway ran before and goes on.", style="dim")
        return False
    if not attended:
        console.print("Without a terminal the demo ends here, and its gateway with it.", style="dim")
        return False
    console.print("It stays up until Ctrl-C.", style="dim")
    return True


def _until_interrupted() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        terminal.say("\nstopping")


def _title(console: Console, number: str, text: str) -> None:
    console.print()
    console.print(f"{number}  {text}", style="bold")


def _asked(console: Console, prompt: str) -> None:
    console.print(f"> {prompt}", style="magenta")


COMMANDS = {"demo": demo}
