"""From token ids to text, piece by piece: no half character, no text that may still become a stop string."""

from __future__ import annotations

from collections.abc import Callable

_REPLACEMENT = "\ufffd"
_PATIENCE = 8
"""Tokens that may wait for the rest of a character. A character has four bytes; what waits longer is no character."""


class Detokenizer:
    """Gives the text that is certain with new tokens. All pieces together are the text of all tokens."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        """Tokens already told, as context for those that follow (a space may depend on it), then those that wait."""
        self._told = 0
        """How many of `_ids` are told."""
        self._context = ""
        """Their text."""

    def feed(self, tokens: list[int]) -> str:
        """The same text for tokens that come together as for one after the other."""
        text = self._decode(self._ids + tokens)
        if text.endswith(_REPLACEMENT) and len(tokens) > 1:
            return "".join(self.feed([token]) for token in tokens)
        self._ids += tokens
        if text.endswith(_REPLACEMENT) and len(self._ids) - self._told < _PATIENCE:
            return ""
        return self._tell(text)

    def finish(self) -> str:
        """What still waits, incomplete characters as U+FFFD."""
        return self._tell(self._decode(self._ids)) if len(self._ids) > self._told else ""

    def _tell(self, text: str) -> str:
        new = text[len(self._context) :]
        if not new:
            return ""
        del self._ids[: self._told]
        self._told = len(self._ids)
        self._context = self._decode(self._ids)
        return new


class StopStrings:
    """Passes text on until a stop string appears in it, wherever the pieces are cut."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    @property
    def any(self) -> bool:
        """Whether there is a stop string to look for."""
        return bool(self._stops)

    def feed(self, text: str) -> str:
        """The text that is certain. Once `found`, nothing more comes; the stop string itself is never given."""
        if not self._stops or self.found:
            return "" if self.found else text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            text, self._held = self._held[: min(places)], ""
            return text
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def finish(self) -> str:
        """What was held back and is no stop string after all."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
