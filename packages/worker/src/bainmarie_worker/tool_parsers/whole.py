"""The common part of formats in which a call is the whole answer, without a tag that would tell it from words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from bainmarie_worker.tool_parsers.delta import CallArguments, CallStart, Delta, Text
from bainmarie_worker.tool_parsers.schemas import Schemas


class Whole(ABC):
    """See `tool_parsers`. An answer that begins otherwise is words, and streams. Calls are told at the end."""

    begins: ClassVar[tuple[str, ...]]
    """What an answer with calls begins with."""

    def __init__(self, schemas: Schemas | None = None) -> None:
        self.schemas = Schemas() if schemas is None else schemas
        self._held = ""
        self._words = False

    @abstractmethod
    def calls(self, text: str) -> list[tuple[str, str]]:
        """(name, arguments as JSON text) of each; empty where the text is something else."""

    def feed(self, text: str) -> list[Delta]:
        if self._words:
            return [Text(text)] if text else []
        self._held += text
        start = self._held.lstrip()
        if not start or start.startswith(self.begins) or any(tag.startswith(start) for tag in self.begins):
            return []
        self._words = True
        held, self._held = self._held, ""
        return [Text(held)]

    def finish(self) -> list[Delta]:
        held, self._held = self._held, ""
        calls = self.calls(held.strip())
        if not calls:
            return [Text(held)] if held else []
        found: list[Delta] = []
        for index, (name, arguments) in enumerate(calls):
            found += [CallStart(index, name), CallArguments(index, arguments)]
        return found
