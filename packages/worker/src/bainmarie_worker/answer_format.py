"""How a model writes its answers, as far as its chat template tells: reasoning, tool calls, what ends them."""

from __future__ import annotations

from bainmarie_worker.reasoning import ReasoningParser, marks_of
from bainmarie_worker.tool_parsers import Parser, Schemas, format_of, harmony
from bainmarie_worker.tool_parsers import parser_for as calls_parser_for


def parser_for(template: str, prompt: str, schemas: Schemas, *, inline: bool) -> Parser | None:
    """A parser for the answer to this prompt; None where the answer is words and nothing else.

    Calls are looked for where the request has tools. `inline`: reasoning stays among the words.
    """
    if harmony.fits(template):
        return harmony.Parser(schemas, calls=len(schemas) > 0, inline=inline)
    calls = calls_parser_for(template, schemas) if len(schemas) else None
    marks = marks_of(template)
    if marks is None:
        return calls
    return ReasoningParser(marks, calls, inside=marks.begun_in(prompt), inline=inline)


def markers(template: str) -> frozenset[str]:
    """Tokens of these names are a part of the answer's text, special or not."""
    module, marks = format_of(template), marks_of(template)
    own: tuple[str, ...] = module.MARKERS if module else ()
    # Gemma's opening mark is a token and a word
    return frozenset((*own, marks.open, marks.close, "<|channel>") if marks else own)


def ends(template: str) -> frozenset[str]:
    """Tokens of these names end an answer, whatever else does."""
    return frozenset(getattr(format_of(template), "ENDS", ()))
