"""The whole answer is one JSON object `{"name": ..., "parameters": {...}}`: Llama 3.1 and later."""

from __future__ import annotations

import json
import re

from bainmarie_worker.tool_parsers.call_json import read_call
from bainmarie_worker.tool_parsers.whole import Whole

_TAG = "<|python_tag|>"
MARKERS = (_TAG,)
_PARAMETERS = re.compile(r'"(?:parameters|arguments)"\s*:')


def fits(template: str) -> bool:
    """Whether the template teaches calls with `parameters`, as Llama's does."""
    return '"parameters": dictionary of argument name' in template or _TAG in template


class Parser(Whole):
    """See `tool_parsers`."""

    begins = ("{", _TAG)

    def calls(self, text: str) -> list[tuple[str, str]]:
        """Several may stand one after the other, separated by `;`."""
        pieces = _objects(text.removeprefix(_TAG))
        calls = [read_call(piece) if _PARAMETERS.search(piece) else None for piece in pieces]
        return [] if None in calls else [call for call in calls if call is not None]


def _objects(text: str) -> list[str]:
    """The JSON objects that stand in a row; what cannot be split is one piece."""
    pieces: list[str] = []
    decoder = json.JSONDecoder(strict=False)
    rest = text.strip()
    while rest:
        try:
            _, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return [*pieces, rest]
        pieces.append(rest[:end])
        rest = rest[end:].lstrip("; \n")
    return pieces
