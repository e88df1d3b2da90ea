"""Calls written as Python between tags: `[f(a=1), g(b="x")]` (LFM2), or a call on each line (OLMo 3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bainmarie_worker.tool_parsers.json_calls import take_json
from bainmarie_worker.tool_parsers.python_calls import early_name, read_calls, write_calls
from bainmarie_worker.tool_parsers.schemas import Schemas
from bainmarie_worker.tool_parsers.tagged import Tagged, Taken

_REGIONS = {"<|tool_call_start|>": "<|tool_call_end|>", "<function_calls>": "</function_calls>"}
_TOOLS = "List of tools: "
"""LFM2's templates show tools this way, and no calls."""
MARKERS = (*_REGIONS, *_REGIONS.values())


def fits(template: str) -> bool:
    """Whether the template writes one of these tags."""
    return any(tag in template for tag in (*_REGIONS, _TOOLS))


def written(calls: Sequence[tuple[str, object]]) -> str:
    """See `tool_parsers`; for LFM2."""
    return f"<|tool_call_start|>[{write_calls(calls)}]<|tool_call_end|>"


class Parser(Tagged):
    """See `tool_parsers`. All but the first name is told when the tag closes."""

    regions = _REGIONS

    def __init__(self, schemas: Schemas | None = None) -> None:
        super().__init__(schemas)
        self._left: deque[tuple[str, str]] = deque()
        """Calls that are read and not taken yet."""

    def take(self, body: str, closed: bool) -> Taken | None:
        if body.lstrip().startswith(("{", "[{")):
            return take_json(body, closed)
        if not closed:
            name = early_name(body)
            return Taken(name, None, 0) if name else None
        if not self._left:
            self._left += read_calls(body, self.schemas)
        if not self._left:
            return None
        name, arguments = self._left.popleft()
        return Taken(name, arguments, 0 if self._left else len(body))
