"""The common part of formats in which each parameter of a call is an element of its own, its value a bare text."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from bainmarie_worker.tool_parsers.call_json import arguments_of, write_json
from bainmarie_worker.tool_parsers.json_calls import take_json
from bainmarie_worker.tool_parsers.tagged import Tagged, Taken

_NAME = re.compile(r"[\w.:/-]+")


class Elements(Tagged):
    """See `Tagged`. What a value means is for the tool's schema to say: a string that looks like a number is one."""

    head: ClassVar[re.Pattern[str]]
    """What a call begins with; its first group is the name."""
    parameter: ClassVar[re.Pattern[str]]
    """An element with the groups `key`, `value`, and `end`, which is empty where it is not closed.

    A group `text` that is `true` or `false` says itself whether the value is a text.
    """
    end: ClassVar[re.Pattern[str] | None] = None
    """What a call ends with, behind a parameter or at once where it has none; None: with the place that it is in."""

    tag: ClassVar[str] = ""
    """A part of that which is quick to look for."""

    def trimmed(self, value: str) -> str:
        """A value without what the format itself writes around it."""
        return value

    def take(self, body: str, closed: bool) -> Taken | None:
        head = self.head.match(body)
        sure = head is not None
        if head is None and closed:
            head = self.head.match(body + "\n")
        if head is None:
            return take_json(body, closed)
        name = head.group(1).strip().strip("\"'")
        unsure = self.open in self.kept or (self.cut and not sure)
        if not _NAME.fullmatch(name) or (unsure and name not in self.schemas):
            return None
        span = self._span(body, head.end(), closed)
        if span is not None:
            return Taken(name, self._arguments(name, body[head.end() : span[0]], False), span[1])
        if not closed:
            return Taken(name, None, 0)
        return Taken(name, self._arguments(name, body[head.end() :], self.cut), len(body))

    def _span(self, body: str, start: int, closed: bool) -> tuple[int, int] | None:
        """Where the parameters end, and where the call does; None where that is not seen."""
        last = None
        if self.end is None or self.tag not in body:
            return None
        for last in self.end.finditer(body, start):
            if last.start() == start or body.endswith("parameter>", start, last.start()):
                return last.span()
        return last.span() if last and closed else None

    def _arguments(self, name: str, inner: str, cut: bool) -> str:
        """As JSON text; of a call that was cut off only its beginning, so that nobody takes it for the whole."""
        values: dict[str, Any] = {}
        found = list(self.parameter.finditer(inner))
        if not found and inner.strip():
            return arguments_of(inner)
        for match in found:
            key, text = match["key"].strip().strip("\"'"), self.trimmed(match["value"])
            if cut and match is found[-1] and not match["end"]:
                return write_json({**values, key: match["value"]})[:-2]
            values[key] = self._value(name, key, text, match.groupdict().get("text"))
        return write_json(values)[: -1 if cut else None]

    def _value(self, name: str, key: str, text: str, is_text: str | None) -> Any:
        if is_text == "true":
            return text
        return self.schemas.value("" if is_text == "false" else name, key, text)
