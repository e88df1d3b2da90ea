"""The whole answer is one JSON object `{"name": ..., "parameters": {...}}`: Llama 3.1 and later.

An answer that does not begin with `{` (or with the python tag) is words, and streams.
"""

from __future__ import annotations

import json
import re

from bainmarie_worker.tool_parsers.call_json import read_call
from bainmarie_worker.tool_parsers.delta import CallArguments, CallStart, Delta, Text

_TAG = "<|python_tag|>"
MARKERS = (_TAG,)
_PARAMETERS = re.compile(r'"(?:parameters|arguments)"\s*:')


def fits(template: str) -> bool:
    """Whether the template teaches calls with `parameters`, as Llama's does."""
    return '"parameters": dictionary of argument name' in template or _TAG in template


class Parser:
    """See `tool_parsers`. Calls are told at the end: only then is it sure that the answer is one."""

    def __init__(self) -> None:
        self._held = ""
        self._words = False

    def feed(self, text: str) -> list[Delta]:
        if self._words:
            return [Text(text)] if text else []
        self._held += text
        start = self._held.lstrip()
        if not start or _TAG.startswith(start) or start.startswith(("{", _TAG)):
            return []
        self._words = True
        held, self._held = self._held, ""
        return [Text(held)]

    def finish(self) -> list[Delta]:
        """Several calls may stand one after the other, separated by `;`."""
        held, self._held = self._held, ""
        body = held.strip()
        body = body[len(_TAG) :] if body.startswith(_TAG) else body
        calls = [read_call(piece) if _PARAMETERS.search(piece) else None for piece in _objects(body)]
        if not calls or None in calls:
            return [Text(held)] if held else []
        found: list[Delta] = []
        for index, call in enumerate(calls):
            if call is not None:
                found += [CallStart(index, call[0]), CallArguments(index, call[1])]
        return found


def _objects(text: str) -> list[str]:
    """The JSON objects that stand in a row; what cannot be split is one piece."""
    pieces: list[str] = []
    decoder = json.JSONDecoder(strict=False)
    rest = text.strip()
    while rest:
        try:
            _, end = decoder.raw_decode(rest)
        except ValueError:
            return [*pieces, rest]
        pieces.append(rest[:end])
        rest = rest[end:].lstrip("; \n")
    return pieces
