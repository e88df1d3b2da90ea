"""What is made of the text of an answer: pieces in the order in which they may be sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Text:
    """Words for the reader."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """Words that the model writes for itself before it answers."""

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


Delta = Union[Text, Reasoning, CallStart, CallArguments]
