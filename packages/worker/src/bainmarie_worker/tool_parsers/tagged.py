"""The common part of formats that write calls between tags: what is held back, what is words, how calls are counted.

Words before a call stream at once. What may be the beginning of a tag, and white space that may stand before one, is
held back. A call's name is told as soon as it is written, its arguments when they are complete. What stands between
tags and is no call stays text, tags and all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from bainmarie_worker.tool_parsers.delta import CallArguments, CallStart, Delta, Text
from bainmarie_worker.tool_parsers.schemas import Schemas
from bainmarie_worker.tool_parsers.tags import begun, certain, first_tag

_FILLING = " \t\r\n,;()[]{}"
"""Left over behind the calls between two tags, it says nothing."""


@dataclass(frozen=True)
class Taken:
    """The call that a text begins with."""

    name: str
    arguments: str | None
    """JSON text, or what the model wrote in its place; None while they are being written."""
    size: int
    """Characters of the text that it takes, once its arguments are there."""


class Tagged(ABC):
    """See `tool_parsers`. A format gives the tags and `take`."""

    regions: ClassVar[dict[str, str]]
    """Each tag that opens a place for calls, with the one that closes it. One that opens the next place closes too."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Opening tags that are a part of the call itself."""
    stray: ClassVar[tuple[str, ...]] = ()
    """Tags that say nothing where they stand behind a call."""

    def __init__(self, schemas: Schemas | None = None) -> None:
        self.schemas = Schemas() if schemas is None else schemas
        self.open = ""
        """The tag of the place that is open."""
        self.cut = False
        """Whether the text has ended before that place was closed."""
        self._outer = (*self.regions, *self.stray)
        self._held = ""
        self._gap = ""
        """The white space before the open tag."""
        self._calls = 0
        self._named = False
        """Whether the call that is being written has been told."""
        self._begun = False
        """Whether there has been a call in the open place."""

    @abstractmethod
    def take(self, body: str, closed: bool) -> Taken | None:
        """The call with which `body` begins, None where none is seen (yet).

        `closed`: nothing more comes to it, so that a call must be complete.
        """

    def feed(self, text: str) -> list[Delta]:
        self._held += text
        found: list[Delta] = []
        while self._inside(found) if self.open else self._outside(found):
            pass
        return found

    def finish(self) -> list[Delta]:
        """A call that was never closed counts as one where its name is known."""
        found: list[Delta] = []
        if self.open:
            size = len(self._held) - begun(self._held, [self.regions[self.open]])
            self._held, rest = self._held[:size], self._held[size:]
            self.cut = True
            self._leave(found, rest)
        elif self._held.strip() or not self._calls:
            found += _words(self._held)
        self._held = ""
        return found

    def _outside(self, found: list[Delta]) -> bool:
        """Takes one thing out of what is held; False when more text is needed."""
        seen = first_tag(self._held, self._outer)
        if seen is None:
            end = certain(self._held, self._outer)
            found += _words(self._held[:end])
            self._held = self._held[end:]
            return False
        place, tag = seen
        before, self._held = self._held[:place], self._held[place + len(tag) :]
        if tag in self.regions:
            words = before.rstrip()
            self.open, self._gap, self._begun = tag, before[len(words) :], False
            if tag in self.kept:
                self._held = tag + self._held
            found += _words(words)
        else:
            found += _words(before.rstrip() if self._calls else before + tag)
        return True

    def _inside(self, found: list[Delta]) -> bool:
        close = self.regions[self.open]
        place = self._held.find(close)
        if place < 0:
            self._tell(found, False)
            return False
        next_opens = close in self.regions
        rest = self._held[place if next_opens else place + len(close) :]
        self._held = self._held[:place]
        self._leave(found, "" if next_opens else close)
        self._held = rest
        return True

    def _tell(self, found: list[Delta], closed: bool) -> None:
        """The calls that are there."""
        while (call := self.take(self._held, closed)) is not None:
            if not self._named:
                found.append(CallStart(self._calls, call.name))
                self._named = self._begun = True
            if call.arguments is None:
                return
            self._complete(found, call.arguments)
            self._held = self._held[call.size :]

    def _complete(self, found: list[Delta], arguments: str) -> None:
        found.append(CallArguments(self._calls, arguments))
        self._calls += 1
        self._named = False

    def _leave(self, found: list[Delta], close: str) -> None:
        """The end of the open place, of which the calls that were not told are still held."""
        if self.open in self.kept and self._held.startswith(self.open):
            self._held += close
            close = ""
        self._tell(found, True)
        if self._named:
            self._complete(found, self._held.strip())
        elif not self._begun:
            opening = "" if self.open in self.kept else self.open
            found += _words(self._gap + opening + self._held + close)
        elif self._held.strip(_FILLING):
            found += _words(self._held.strip())
        self.open = ""


def _words(text: str) -> list[Delta]:
    return [Text(text)] if text else []
