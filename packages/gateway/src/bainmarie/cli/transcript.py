"""A run as a person reads it: what the model says, each call with its arguments, its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import click

from bainmarie.cli import terminal

RESULT_LINES = 8
"""Lines of a result that are shown."""
LINE_LENGTH = 400


class Transcript:
    """Shows one run. Feed it the run's `item` and `delta` events in order."""

    def __init__(self, *, text: IO[str] | None, calls: IO[str]) -> None:
        """`text` gets what the model says, as it comes (None: nobody), `calls` its reasoning, the calls and results."""
        self._text = text
        self._calls = calls
        self._streamed = False
        self._open = False
        self._thinking = False
        """Whether a line of reasoning is open."""
        self._colour = terminal.colours(calls)

    def delta(self, text: str) -> None:
        """A piece of the model's text."""
        if not text:
            return
        if not self._open:
            text = text.lstrip("\n")
        if text:
            self._end_thought()
            self._write(text)
            self._streamed = self._open = True

    def thought(self, text: str) -> None:
        """A piece of the model's reasoning."""
        if text:
            if not self._thinking:
                self.end_line()
                self._thinking = True
            click.echo(click.style(terminal.visible(text), dim=True), file=self._calls, nl=False, color=self._colour)

    def item(self, item: Mapping[str, Any]) -> None:
        """A saved item. A message whose text came in pieces is not shown again."""
        kind = item.get("type")
        if kind == "message" and item.get("role") == "assistant":
            if not self._streamed and str(item["text"]).strip():
                self._write(str(item["text"]).strip("\n"))
                self._open = True
            self._streamed = False
            self.end_line()
        elif kind == "tool_call":
            self.end_line()
            self._line(call_text(str(item["name"]), str(item["arguments"])), fg="cyan")
        elif kind == "tool_result":
            self._result(str(item["status"]), str(item["text"]))

    def end_line(self) -> None:
        """Close a line that is still open."""
        self._end_thought()
        if self._open:
            self._write("\n")
            self._open = False

    def _end_thought(self) -> None:
        if self._thinking:
            click.echo(file=self._calls)
            self._thinking = False

    def _result(self, status: str, text: str) -> None:
        lines = text.splitlines() or ["(nothing)"]
        styles: dict[str, Any] = {
            "success": {"dim": True},
            "denied": {"fg": "yellow"},
        }
        style = styles.get(status, {"fg": "red"})
        for index, line in enumerate(lines[:RESULT_LINES]):
            lead = "  -> " if index == 0 else "     "
            self._line(lead + terminal.shorten(line, LINE_LENGTH), **style)
        if len(lines) > RESULT_LINES:
            self._line(f"     ... {len(lines) - RESULT_LINES} more lines", dim=True)

    def _line(self, text: str, **style: Any) -> None:
        click.echo(click.style(terminal.visible(text), **style), file=self._calls, color=self._colour)

    def _write(self, text: str) -> None:
        if self._text is not None:
            click.echo(terminal.visible(text) if self._text.isatty() else text, file=self._text, nl=False)


def call_text(name: str, arguments: str) -> str:
    """`calculator(expression="17 + 5")`; arguments that are not JSON stand as they are."""
    try:
        values = json.loads(arguments)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        return f"{name}({terminal.shorten(arguments, LINE_LENGTH)})"
    shown = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return f"{name}({terminal.shorten(shown, LINE_LENGTH)})"
