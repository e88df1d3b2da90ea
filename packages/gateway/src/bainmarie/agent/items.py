"""The items a conversation is saved as, with their JSON forms.

The prompt is computed from these and from nothing else (`history.render`), so no text can enter it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
ResultStatus = Literal["success", "error", "denied", "interrupted"]
Choice = Literal["approve", "deny"]
Scope = Literal["once", "session"]


@dataclass(frozen=True)
class Message:
    """Text of one speaker. `iteration` counts the model's turns of this run from 1; 0 is for texts given to it."""

    role: Role
    text: str
    iteration: int = 0


@dataclass(frozen=True)
class Reasoning:
    """What the model wrote for itself before the assistant message that follows."""

    text: str
    iteration: int = 0


@dataclass(frozen=True)
class ToolCall:
    """A call that the assistant message before it asks for.

    `id` is ours and unique over all runs: models repeat theirs. `arguments` is the model's own text, JSON or not.
    """

    id: str
    name: str
    arguments: str
    iteration: int = 0


@dataclass(frozen=True)
class ToolResult:
    """What the model is told about one call. Every call gets exactly one; a denial is a result too."""

    call_id: str
    status: ResultStatus
    text: str


@dataclass(frozen=True)
class ApprovalRequested:
    """A person has been asked about one call."""

    approval_id: str
    call_id: str


@dataclass(frozen=True)
class ApprovalDecided:
    """A person has answered."""

    approval_id: str
    call_id: str
    decision: Choice
    scope: Scope = "once"
    reason: str = ""


Item = Message | Reasoning | ToolCall | ToolResult | ApprovalRequested | ApprovalDecided

_KINDS: dict[str, type[Item]] = {
    "message": Message,
    "reasoning": Reasoning,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "approval_request": ApprovalRequested,
    "approval_decision": ApprovalDecided,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def kind_of(item: Item) -> str:
    """The item's `type` in JSON."""
    return _NAMES[type(item)]


def to_json(item: Item) -> dict[str, object]:
    """The item's fields and its `type`."""
    return {"type": kind_of(item), **asdict(item)}


def from_json(data: Mapping[str, object]) -> Item:
    """The inverse of `to_json`. ValueError on anything else."""
    fields = dict(data)
    kind = _KINDS.get(str(fields.pop("type", "")))
    if kind is None:
        raise ValueError(f"not an item: {data!r}")
    try:
        return kind(**fields)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"not an item: {error}") from error
