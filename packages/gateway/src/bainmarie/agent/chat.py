"""One turn of a model, as the loop sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bainmarie.agent.history import ChatMessage


class OnDelta(Protocol):
    """Takes each piece of text as it comes."""

    def __call__(self, text: str, *, reasoning: bool = False) -> None:
        """`reasoning`: the model writes it for itself, before it answers."""
        ...


@dataclass(frozen=True)
class ProposedCall:
    """A call as the model wrote it; the arguments are its text, JSON or not."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Usage:
    """Tokens of one turn, as the worker counted them."""

    prompt: int = 0
    completion: int = 0


@dataclass(frozen=True)
class AssistantMessage:
    """A whole turn."""

    text: str
    tool_calls: tuple[ProposedCall, ...] = ()
    usage: Usage = Usage()
    finish_reason: str = "stop"
    seconds: float | None = None
    """What the model itself took, where the worker says it; else the whole turn counts as the model's."""
    reasoning: str = ""
    """What it wrote for itself before it answered."""


class Chat(Protocol):
    """A model to talk to. Cancelling ends the generation."""

    async def __call__(
        self, messages: Sequence[ChatMessage], tools: Sequence[dict[str, object]], on_delta: OnDelta
    ) -> AssistantMessage:
        """The next turn; `tools` are definitions in OpenAI's shape, none means that no call may be made."""
        ...
