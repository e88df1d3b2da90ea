"""Server-sent events cut at their ends: a client never gets the half of one."""

from __future__ import annotations

_LONGEST = 1 << 20
"""Bytes that are held back at most; an event longer than this goes on in parts."""
_ENDS = (b"\n\n", b"\r\n\r\n")
_DONE = b"data: [DONE]"


class WholeEvents:
    """Takes bytes as they come. `rest` is what has no end yet, `ended` whether the stream has said that it is over."""

    def __init__(self) -> None:
        self.rest = b""
        self.ended = False

    def take(self, chunk: bytes) -> bytes:
        """The events that are whole now."""
        data = self.rest + chunk
        end = max(data.rfind(mark) + len(mark) if mark in data else 0 for mark in _ENDS)
        if len(data) - end > _LONGEST:
            end = len(data)
        whole, self.rest = data[:end], data[end:]
        self.ended = self.ended or _DONE in whole[-64:]
        return whole
