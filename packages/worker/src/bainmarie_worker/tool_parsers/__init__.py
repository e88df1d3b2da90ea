"""The formats in which models write tool calls: one module each, with the same three names.

`MARKERS`: strings that open or close a call; tokens of these names are kept when text is made of tokens.
`fits(template)`: whether a chat template teaches this format.
`Parser`: `feed(text) -> list[Delta]` as text comes, `finish() -> list[Delta]` once at its end. It takes the schemas of
the request's tools. No text is lost and nothing is raised, whatever the model writes.

`ENDS`, where a module has it: tokens of these names end an answer.
`written(calls)`, where templates of a format do not write earlier calls: the (name, arguments) as the model would.
"""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

from bainmarie_worker.tool_parsers import (
    deepseek,
    functions,
    gemma,
    glm,
    harmony,
    hermes,
    invoke,
    json_tags,
    kimi,
    llama,
    llama4,
    mistral,
    pythonic,
)
from bainmarie_worker.tool_parsers.delta import CallArguments, CallStart, Delta, Reasoning, Text
from bainmarie_worker.tool_parsers.schemas import Schemas

__all__ = ["CallArguments", "CallStart", "Delta", "Parser", "Reasoning", "Schemas", "Text", "format_of", "parser_for"]


class Parser(Protocol):
    """Splits a growing text into words and tool calls."""

    def feed(self, text: str) -> list[Delta]: ...
    def finish(self) -> list[Delta]: ...


_FORMATS = (
    harmony,
    gemma,
    deepseek,
    kimi,
    invoke,
    functions,
    glm,
    mistral,
    pythonic,
    json_tags,
    hermes,
    llama4,
    llama,
)
"""The more telling ones first."""


def format_of(template: str) -> ModuleType | None:
    """The module of the format that the template teaches; None where none is known."""
    return next((module for module in _FORMATS if module.fits(template)), None)


def parser_for(template: str, schemas: Schemas | None = None) -> Parser | None:
    """A parser for the format that the template teaches; None where none is known."""
    module = format_of(template)
    if module is None:
        return None
    parser: Parser = module.Parser(schemas)
    return parser
