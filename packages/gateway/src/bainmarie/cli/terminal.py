"""What a person sees: messages and errors on stderr, colours only on a terminal and never with NO_COLOR."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import IO, TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from bainmarie.errors import BainError
    from bainmarie.progress import Progress

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, changes of the writing direction, halves of characters."""
LOG_LINES = 12
"""Lines of a worker's log shown below an error."""


def colours(stream: IO[str]) -> bool:
    """Whether `stream` shall get colours."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str, *, dim: bool = False) -> None:
    """One line for a person, on stderr."""
    styled = click.style(text, dim=True) if dim else text
    click.echo(styled, err=True, color=colours(sys.stderr))


def say_progress(progress: Progress) -> None:
    """One line for each report, of commands without a view of their own."""
    say(f"{progress.stage}: {progress.detail}")


def show_error(error: BainError) -> None:
    """`error: what happened`, `  hint: what to do`, and the end of the log where there is one."""
    colour = colours(sys.stderr)
    click.echo(click.style("error: ", fg="red", bold=True) + error.message, err=True, color=colour)
    if error.hint:
        click.echo(click.style("  hint: ", fg="cyan") + error.hint, err=True, color=colour)
    if error.log_tail:
        click.echo("  last lines of the log:", err=True)
    for line in error.log_tail.splitlines()[-LOG_LINES:]:
        click.echo(click.style(f"    {line}", dim=True), err=True, color=colour)


def print_json(data: object) -> None:
    """`data` on stdout, indented."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def console(stream: IO[str]) -> Console:
    """A rich console on `stream`; without a terminal it is as wide as its content needs."""
    from rich.console import Console

    colour = colours(stream)
    width = None if stream.isatty() else 200
    return Console(file=stream, width=width, no_color=not colour, highlight=False, soft_wrap=False, markup=False)


def duration(seconds: float) -> str:
    """`840 ms`, `3.2 s`, `4 min 10 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def memory(size: int) -> str:
    """Bytes as people read them: `948 MB`, `1.8 GB`."""
    if size <= 0:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def memories(main: int | None, accelerators: Mapping[str, int]) -> str:
    """`2.0 GB + 5.0 GB of gpu0`; what is nothing is left out."""
    parts = [memory(main or 0), *(f"{memory(size)} of {place}" for place, size in accelerators.items() if size > 0)]
    return " + ".join(part for part in parts if part)


def shorten(text: str, length: int) -> str:
    """`text` on one line, cut with `...` where it is longer than `length`."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3].rstrip() + "..."


def visible(text: str) -> str:
    """`text` with control characters written out, so that what a model says cannot steer the terminal."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def precise(seconds: float) -> str:
    """As `duration`, with tenths of a millisecond: for what takes next to none."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else duration(seconds)
