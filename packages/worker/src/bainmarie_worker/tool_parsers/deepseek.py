"""Calls between DeepSeek's own tokens: V3 and R1 (name, then JSON in a code fence), V3.1 (name, then JSON)."""

from __future__ import annotations

import re

from bainmarie_worker.tool_parsers.headed import Headed

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
MARKERS = (_CALLS, _CALLS_END, _CALL, _CALL_END, _SEPARATOR)


def fits(template: str) -> bool:
    """Whether the template writes calls this way."""
    return _CALLS in template


class Parser(Headed):
    """See `tool_parsers`."""

    regions = {_CALLS: _CALLS_END}  # noqa: RUF012 - not changed
    head = re.compile(
        rf"\s*(?:{_CALL})?\s*(?:function{_SEPARATOR}(?P<fenced>[^\n<`]+)\n|(?!function<)(?P<name>[^<\n]+){_SEPARATOR})"
    )
    end = _CALL_END

    def named(self, head: re.Match[str]) -> str:
        return (head["fenced"] or head["name"]).strip()
