"""Harmony, in which gpt-oss writes all of an answer: messages with a header, each in a channel.

`analysis` is reasoning, `final` the answer, `commentary` words for the reader; a message `to=functions.NAME` is a call.
The first header has begun in the prompt. Words that stand outside a message, as no model should write, are words.
"""

from __future__ import annotations

import re

from bainmarie_worker.tool_parsers.delta import CallArguments, CallStart, Delta, Reasoning, Text
from bainmarie_worker.tool_parsers.schemas import Schemas
from bainmarie_worker.tool_parsers.tags import begun, first_tag

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ENDS = ("<|call|>", "<|return|>")
_CLOSES = ("<|end|>", *ENDS, _START, _CHANNEL)
MARKERS = (_START, _CHANNEL, _MESSAGE, "<|end|>", "<|constrain|>", *ENDS)
_HEADERS = (_START, _CHANNEL, _MESSAGE, "<|constrain|>", "assistant", "to=")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")
_KIND = re.compile(r"<\|channel\|>\s*(\w+)")


def fits(template: str) -> bool:
    """Whether the template writes such headers."""
    return _CHANNEL in template and _MESSAGE in template


class Parser:
    """See `tool_parsers`. The arguments of a call come piece by piece, as the model writes them."""

    def __init__(self, schemas: Schemas | None = None, *, calls: bool = True, inline: bool = False) -> None:
        """`calls`: whether there are tools, else what is addressed to one is words. `inline`: nothing is reasoning."""
        self._make_calls = calls
        self._inline = inline
        self._held = ""
        self._header = True
        """Whether a header is being read; else the message after it."""
        self._kind: type[Text] | type[Reasoning] | type[CallArguments] = Text
        self._calls = -1
        self._said = False
        """Whether this message has said anything."""

    def feed(self, text: str) -> list[Delta]:
        self._held += text
        found: list[Delta] = []
        while self._read_header(found) if self._header else self._read_message(found):
            pass
        return found

    def finish(self) -> list[Delta]:
        held, self._held = self._held, ""
        found: list[Delta] = []
        if not self._header:
            self._say(found, held)
            self._close(found, "")
        elif held.strip() and first_tag(held, _HEADERS[:4]) is None:
            found.append(Text(held))
        return found

    def _read_header(self, found: list[Delta]) -> bool:
        start = self._held.lstrip()
        if not start.startswith(_HEADERS):
            if any(beginning.startswith(start) for beginning in _HEADERS):
                return False
            self._kind, self._header, self._said = Text, False, False
            return True
        header, tag, rest = self._held.partition(_MESSAGE)
        if not tag:
            return False
        self._held, self._header, self._said = rest, False, False
        self._begin(found, header)
        return True

    def _begin(self, found: list[Delta], header: str) -> None:
        kind, recipient = _KIND.search(header), _RECIPIENT.search(header)
        if recipient and self._make_calls:
            self._kind = CallArguments
            self._calls += 1
            found.append(CallStart(self._calls, recipient.group(1)))
        elif kind and kind.group(1) == "analysis" and not self._inline:
            self._kind = Reasoning
        else:
            self._kind = Text
            if kind and kind.group(1) == "analysis":
                self._say(found, header + _MESSAGE)

    def _read_message(self, found: list[Delta]) -> bool:
        seen = first_tag(self._held, _CLOSES)
        if seen is None:
            end = len(self._held) - begun(self._held, _CLOSES)
            self._say(found, self._held[:end])
            self._held = self._held[end:]
            return False
        place, tag = seen
        self._say(found, self._held[:place])
        self._held = self._held[place + (0 if tag in (_START, _CHANNEL) else len(tag)) :]
        self._close(found, tag)
        return True

    def _close(self, found: list[Delta], tag: str) -> None:
        if self._kind is CallArguments and not self._said:
            found.append(CallArguments(self._calls, "{}"))
        self._header = True

    def _say(self, found: list[Delta], text: str) -> None:
        if self._kind is CallArguments and not self._said:
            text = text.lstrip()
        if not text:
            return
        self._said = True
        if self._kind is CallArguments:
            found.append(CallArguments(self._calls, text))
        else:
            found.append(Reasoning(text) if self._kind is Reasoning else Text(text))
