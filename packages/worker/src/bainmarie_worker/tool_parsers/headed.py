"""The common part of formats that write a call as its name, a tag, and its arguments as JSON."""

from __future__ import annotations

import json
import re
from typing import ClassVar

from bainmarie_worker.tool_parsers.call_json import arguments_of
from bainmarie_worker.tool_parsers.tagged import Tagged, Taken

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_DECODER = json.JSONDecoder(strict=False)


class Headed(Tagged):
    """See `Tagged`."""

    head: ClassVar[re.Pattern[str]]
    """All that stands before the arguments, with the group `name`."""
    end: ClassVar[str] = ""
    """The tag behind the arguments; empty: they end where their JSON does."""

    def named(self, head: re.Match[str]) -> str:
        return head["name"].strip()

    def take(self, body: str, closed: bool) -> Taken | None:
        head = self.head.match(body)
        name = self.named(head) if head else ""
        if head is None or not name:
            return None
        rest = body[head.end() :]
        place = rest.find(self.end) if self.end else _json_end(rest)
        if place >= 0:
            return Taken(name, _plain(rest[:place]), head.end() + place + len(self.end))
        return Taken(name, _plain(rest), len(body)) if closed else Taken(name, None, 0)


def _json_end(text: str) -> int:
    """Where the JSON value that the text begins with ends; -1 where it has not."""
    if not text.rstrip().endswith("}"):
        text = text[: text.rfind("}") + 1]
    start = len(text) - len(text.lstrip())
    try:
        return _DECODER.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return -1


def _plain(text: str) -> str:
    fenced = _FENCE.fullmatch(text)
    return arguments_of(fenced.group(1) if fenced else text)
