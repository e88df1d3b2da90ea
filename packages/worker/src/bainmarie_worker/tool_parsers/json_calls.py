"""Calls between tags as JSON: one object, several in a row, or a list of them."""

from __future__ import annotations

import json
import re

from bainmarie_worker.tool_parsers.call_json import call_of, early_name, read_call
from bainmarie_worker.tool_parsers.tagged import Tagged, Taken

_BEFORE = re.compile(r"[\s,;\[]*")
_DECODER = json.JSONDecoder(strict=False)


class JsonCalls(Tagged):
    """See `Tagged`. What is broken comes as the model wrote it."""

    def take(self, body: str, closed: bool) -> Taken | None:
        return take_json(body, closed)


def take_json(body: str, closed: bool) -> Taken | None:
    """See `Tagged.take`."""
    before = _BEFORE.match(body)
    start = before.end() if before else 0
    rest = body[start:]
    if not rest.startswith("{"):
        return None
    name = early_name(rest) or None
    if closed or rest.rstrip().endswith(("}", "]")):
        size, call = _whole(rest)
        if size:
            if call is None:
                return Taken(name, rest[:size].strip(), start + size) if name else None
            return Taken(name or call[0], call[1], start + size)
    if not closed:
        return None if name is None else Taken(name, None, 0)
    broken = read_call(rest) or (name and (name, rest.strip()))
    return Taken(name or broken[0], broken[1], len(body)) if broken else None


def _whole(text: str) -> tuple[int, tuple[str, str] | None]:
    """Size of the object that the text begins with, 0 where it is not complete; the call that it is."""
    try:
        data, size = _DECODER.raw_decode(text)
        return size, call_of(data)
    except (ValueError, RecursionError):
        return 0, None
