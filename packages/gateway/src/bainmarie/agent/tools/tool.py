"""What a tool is, and the one border behind which all tools are called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Arguments = dict[str, object]


@dataclass(frozen=True)
class Tool:
    """Something a model may call. Name, description, parameters and annotations are its definition."""

    name: str
    description: str
    parameters: Mapping[str, object]
    """JSON Schema of the arguments, an object."""
    idempotent: bool = False
    """Calling it twice does what calling it once does: only then is an interrupted call run again."""
    annotations: Mapping[str, object] = field(default_factory=dict)
    time_limit: float | None = None
    """Seconds a call may take, where that is less than the run's own limit."""

    @property
    def definition(self) -> dict[str, object]:
        """As the model is told of it, in OpenAI's shape."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    @property
    def definition_hash(self) -> str:
        """Changes whenever anything changes that a person approved by."""
        annotations = {**self.annotations, "idempotent": self.idempotent}
        return canonical_hash([self.name, self.description, dict(self.parameters), annotations])


@dataclass(frozen=True)
class Outcome:
    """What a call came to; `text` is what the model is told."""

    status: Literal["success", "error"]
    text: str


class ToolFailed(Exception):
    """A tool could not do what it was asked. The message goes to the model after `Error: `."""


class Toolset(Protocol):
    """Tools from one source."""

    def definitions(self) -> Sequence[Tool]:
        """All its tools, in the order in which the model is told of them."""
        ...

    async def call(self, name: str, arguments: Arguments) -> Outcome:
        """Do it. The arguments have been checked. When cancelled, nothing of the call is left running on return."""
        ...


def canonical_hash(value: object) -> str:
    """SHA-256 of the JSON with sorted keys and no spaces: equal values have equal hashes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
