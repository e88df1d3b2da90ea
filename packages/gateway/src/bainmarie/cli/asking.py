"""The question whether a tool may be called, asked in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import click

from bainmarie.cli import terminal

QUESTION = "  [y] once  [a] always in this session  [n] no: "


@dataclass(frozen=True)
class Decision:
    """A person's answer to one call."""

    approve: bool
    scope: str = "once"
    """`once`, or `session` for this tool in the rest of the run."""

    def to_json(self) -> dict[str, str]:
        return {"decision": "approve", "scope": self.scope} if self.approve else {"decision": "deny"}


ANSWERS = {
    "y": Decision(True),
    "yes": Decision(True),
    "a": Decision(True, "session"),
    "always": Decision(True, "session"),
    "n": Decision(False),
    "no": Decision(False),
}


def can_ask() -> bool:
    """Whether a person sees the question and can answer it."""
    return sys.stderr.isatty()


def decide(tool: str, arguments: Mapping[str, Any]) -> Decision:
    """Ask until there is an answer. The end of the input is a no; Ctrl-C passes through."""
    colour = terminal.colours(sys.stderr)
    click.echo(click.style(f"  {tool} asks to run with", fg="yellow", bold=True), err=True, color=colour)
    for name, value in arguments.items():
        click.echo(f"    {name}: {terminal.visible(str(value))}", err=True)
    with _answers() as lines:
        while True:
            click.echo(QUESTION, err=True, nl=False)
            sys.stderr.flush()
            line = lines.readline()
            if not line:
                terminal.say("")
                return Decision(False)
            if decision := ANSWERS.get(line.strip().lower()):
                return decision


@contextmanager
def _answers() -> Iterator[IO[str]]:
    """stdin where it is a terminal, else the terminal itself: stdin may be a pipe."""
    if sys.stdin.isatty():
        yield sys.stdin
        return
    with open("/dev/tty", encoding="utf-8", errors="replace") as tty:
        yield tty
