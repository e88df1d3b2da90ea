"""Calls between Kimi K2's own tokens; a call's name is a part of its id: `functions.NAME:0`."""

from __future__ import annotations

import re

from bainmarie_worker.tool_parsers.headed import Headed

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
MARKERS = (_SECTION, _SECTION_END, _CALL, _CALL_END, _ARGUMENTS)
_ID = re.compile(r"(?:functions\.)?(.*?)(?::\d+)?")


def fits(template: str) -> bool:
    """Whether the template writes calls this way."""
    return _ARGUMENTS in template


class Parser(Headed):
    """See `tool_parsers`."""

    regions = {_SECTION: _SECTION_END}  # noqa: RUF012 - not changed
    head = re.compile(rf"\s*{re.escape(_CALL)}(?P<name>[^<]*){re.escape(_ARGUMENTS)}")
    end = _CALL_END

    def named(self, head: re.Match[str]) -> str:
        match = _ID.fullmatch(head["name"].strip())
        return match.group(1) if match else ""
