"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen and many others.

Words before a call stream at once. What may be the beginning of a tag, and white space that may stand before one, is
held back. A call's name is told as soon as it is written, its arguments when the call closes.
"""

from __future__ import annotations

from bainmarie_worker.tool_parsers.call_json import early_name, read_call
from bainmarie_worker.tool_parsers.delta import CallArguments, CallStart, Delta, Text

_OPEN = "<tool_call>"
_CLOSE = "</tool_call>"
MARKERS = (_OPEN, _CLOSE)


def fits(template: str) -> bool:
    """Whether the template writes calls this way, with a JSON object inside (not XML, as some models do)."""
    return _OPEN in template and "<function=" not in template and "<arg_key>" not in template


class Parser:
    """See `tool_parsers`."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._calls = 0
        self._named: str | None = None
        """The name already told of the call that is open."""

    def feed(self, text: str) -> list[Delta]:
        self._held += text
        found: list[Delta] = []
        while self._step(found):
            pass
        return found

    def finish(self) -> list[Delta]:
        """A call that was never closed counts as one where its name is known."""
        held, self._held = self._held, ""
        if self._inside:
            return self._close(held, "")
        return self._words(held) if held.strip() or not self._calls else []

    def _step(self, found: list[Delta]) -> bool:
        """Takes one thing out of what is held; False when more text is needed."""
        before, tag, after = self._held.partition(_CLOSE if self._inside else _OPEN)
        if tag:
            found += self._close(before, _CLOSE) if self._inside else self._words(before.rstrip())
            self._inside = not self._inside
            self._held = after
            return True
        if self._inside:
            found += self._name_early()
        else:
            end = _safe_end(self._held)
            found += self._words(self._held[:end])
            self._held = self._held[end:]
        return False

    def _words(self, text: str) -> list[Delta]:
        return [Text(text)] if text else []

    def _name_early(self) -> list[Delta]:
        if self._named is not None:
            return []
        self._named = early_name(self._held) or None
        return [] if self._named is None else [CallStart(self._calls, self._named)]

    def _close(self, body: str, tag: str) -> list[Delta]:
        told, self._named = self._named, None
        name = told or early_name(body)
        call = read_call(body) or (name and (name, body.strip()))
        if not call:
            return self._words(_OPEN + body + tag)
        start: list[Delta] = [] if told else [CallStart(self._calls, name or call[0])]
        index, self._calls = self._calls, self._calls + 1
        return [*start, CallArguments(index, call[1])]


def _safe_end(text: str) -> int:
    """How much of the text can be neither the beginning of a tag nor white space before one."""
    end = len(text)
    for size in range(min(len(_OPEN) - 1, end), 0, -1):
        if _OPEN.startswith(text[end - size :]):
            end -= size
            break
    return len(text[:end].rstrip())
