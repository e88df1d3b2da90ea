"""`call:NAME{key:value}` with strings in marks of their own: Gemma 4, FunctionGemma."""

from __future__ import annotations

import re
from typing import Any

from bainmarie_worker.tool_parsers.call_json import write_json
from bainmarie_worker.tool_parsers.schemas import literal
from bainmarie_worker.tool_parsers.tagged import Tagged, Taken

_QUOTES = ('<|"|>', "<escape>")
_REGIONS = {"<|tool_call>": "<tool_call|>", "<start_function_call>": "<end_function_call>"}
MARKERS = (*_REGIONS, *_REGIONS.values(), *_QUOTES)
ENDS = ("<|tool_response>", "<start_function_response>")
_HEAD = re.compile(r"\s*call:\s*([\w.:/-]+?)\s*(?=\{)")
_KEY = re.compile(r"\s*([^:{}\[\],]+?)\s*:")
_BARE = re.compile(r"[^,{}\[\]]+")


def fits(template: str) -> bool:
    """Whether the template writes one of these tags."""
    return any(tag in template for tag in _REGIONS)


class Parser(Tagged):
    """See `tool_parsers`."""

    regions = _REGIONS

    def take(self, body: str, closed: bool) -> Taken | None:
        head = _HEAD.match(body)
        if head is None:
            return None
        name = head.group(1)
        if not closed:
            return Taken(name, None, 0)
        raw = body[head.end() :].strip()
        try:
            values = _Reader(raw).whole()
            for key, value in values.items():
                if isinstance(value, _Bare):
                    values[key] = self.schemas.value(name, key, value)
            return Taken(name, write_json(values), len(body))
        except (ValueError, IndexError, RecursionError):
            return Taken(name, raw, len(body))


class _Bare(str):
    """A value without marks, of which the schema may know better than its looks."""


class _Reader:
    """Reads one object. ValueError or IndexError where the text is none."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def whole(self) -> dict[str, Any]:
        values = self._object(outer=True)
        if self._text[self._place :].strip():
            raise ValueError("more than one object")
        return values

    def _object(self, outer: bool = False) -> dict[str, Any]:
        self._skip("{")
        values: dict[str, Any] = {}
        while not self._closes("}"):
            key = self._string()
            if key is None:
                match = _KEY.match(self._text, self._place)
                if match is None:
                    raise ValueError("no key")
                key, self._place = match.group(1).strip('"'), match.end()
            else:
                self._skip(":")
            values[key] = self._value(outer)
        return values

    def _array(self) -> list[Any]:
        self._skip("[")
        values = []
        while not self._closes("]"):
            values.append(self._value())
        return values

    def _value(self, outer: bool = False) -> Any:
        text = self._string()
        if text is not None:
            return text
        sign = self._text[self._place]
        if sign in "{[":
            return self._object() if sign == "{" else self._array()
        match = _BARE.match(self._text, self._place)
        if match is None:
            raise ValueError("no value")
        self._place = match.end()
        bare = match.group().strip()
        if outer:
            return _Bare(bare)
        try:
            return literal(bare)
        except ValueError:
            return bare

    def _string(self) -> str | None:
        """The string in marks that comes next."""
        self._blank()
        for quote in _QUOTES:
            if self._text.startswith(quote, self._place):
                start = self._place + len(quote)
                end = self._text.index(quote, start)
                self._place = end + len(quote)
                return self._text[start:end]
        return None

    def _closes(self, sign: str) -> bool:
        self._blank()
        if self._text[self._place] == ",":
            self._place += 1
            self._blank()
        if self._text[self._place] != sign:
            return False
        self._place += 1
        return True

    def _skip(self, sign: str) -> None:
        self._blank()
        if self._text[self._place] != sign:
            raise ValueError(f"no {sign}")
        self._place += 1

    def _blank(self) -> None:
        while self._text[self._place].isspace():
            self._place += 1
