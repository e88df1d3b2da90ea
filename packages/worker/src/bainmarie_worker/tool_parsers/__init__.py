"""The formats in which models write tool calls: one module each, with the same three names.

`MARKERS`: strings that open or close a call; tokens of these names are kept when text is made of tokens.
`fits(template)`: whether a chat template teaches this format.
`Parser`: `feed(text) -> list[Delta]` as text comes, `finish() -> list[Delta]` once at its end.
"""

from __future__ import annotations

from typing import Protocol

from bainmarie_worker.tool_parsers import hermes, llama
from bainmarie_worker.tool_parsers.delta import CallArguments, CallStart, Delta, Text

__all__ = ["CallArguments", "CallStart", "Delta", "Parser", "Text", "markers", "parser_for"]


class Parser(Protocol):
    """Splits a growing text into words and tool calls."""

    def feed(self, text: str) -> list[Delta]: ...
    def finish(self) -> list[Delta]: ...


_FORMATS = (hermes, llama)


def parser_for(template: str) -> Parser | None:
    """A parser for the format that the template teaches; None where none is known."""
    for module in _FORMATS:
        if module.fits(template):
            parser: Parser = module.Parser()
            return parser
    return None


def markers() -> tuple[str, ...]:
    """The markers of all formats."""
    return tuple(marker for module in _FORMATS for marker in module.MARKERS)
