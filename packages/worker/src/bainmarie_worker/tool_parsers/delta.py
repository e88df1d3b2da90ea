"""What a tool parser makes of a text: pieces in the order in which they may be sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Text:
    """Words for the reader."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """Call number `index` (from 0) begins; its name is known."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A further piece of the JSON text of the arguments of call `index`. Broken JSON comes as the model wrote it."""

    index: int
    text: str


Delta = Union[Text, CallStart, CallArguments]
