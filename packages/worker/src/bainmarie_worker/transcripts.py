"""The token ids of conversations so far, so that a text that was generated is never split into tokens anew.

A model may write a word as other tokens than the tokenizer would choose. Encoded again, the history would differ from
what is computed already, from that word on; with these ids it is the same to the last token, and only what is new in a
prompt has to be encoded at all.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable

_KEPT = 256


class Transcripts:
    """The latest prompts with their answers. For the event loop only."""

    def __init__(self, encode: Callable[[str], list[int]], is_boundary: Callable[[str], bool]) -> None:
        """`is_boundary` tells whether a text begins with a token that never melts into what stands before it."""
        self._encode = encode
        self._is_boundary = is_boundary
        self._known: deque[tuple[str, array[int]]] = deque(maxlen=_KEPT)

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt; those of the longest known conversation that it goes on with as they were."""
        fitting = [item for item in self._known if text.startswith(item[0]) and self._is_boundary(text[len(item[0]) :])]
        if not fitting:
            return self._encode(text)
        known = max(fitting, key=lambda item: len(item[0]))
        return [*known[1], *self._encode(text[len(known[0]) :])]

    def note(self, text: str, ids: list[int]) -> None:
        """A prompt and its answer, as one text and as tokens (the end token left out)."""
        self._known.append((text, array("q", ids)))
