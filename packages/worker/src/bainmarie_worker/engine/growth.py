"""What a sequence's length changes about the tokens that are computed: rotary positions of some kinds. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Growth:
    """How a sequence's length decides over how its tokens are turned by their positions.

    A prompt is turned as its own length asks for, each generated token as the length up to it does.
    """

    most: int
    """Tokens up to which the length changes nothing."""
    each: bool = False
    """Beyond, each length turns otherwise; else all longer ones are alike."""
    anew: bool = False
    """A sequence that grows beyond is computed anew, as if it were a prompt; else what is computed stays."""

    def side(self, tokens: int) -> int:
        """The same for lengths that turn alike: what is computed for a prompt is of use for others of its side."""
        return 0 if tokens <= self.most else tokens if self.each else 1


NONE = Growth(1 << 62)
"""The length changes nothing."""


def growth(forward: Any) -> Growth:
    """That of a `Forward`, which may have none to tell of."""
    told: Growth = getattr(forward, "growth", NONE)
    return told
