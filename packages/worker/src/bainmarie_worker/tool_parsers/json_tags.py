"""A list of calls as JSON between tags: a row for each pair of tags."""

from __future__ import annotations

from collections.abc import Sequence

from bainmarie_worker.tool_parsers.call_json import write_json
from bainmarie_worker.tool_parsers.json_calls import JsonCalls

_REGIONS = {
    "<|tool_call|>": "<|/tool_call|>",  # Granite 3 (which never closes it), Phi-4-mini
    "<tool_calls>": "</tool_calls>",  # Jamba, Hunyuan, MiniMax M1
    "<|START_ACTION|>": "<|END_ACTION|>",  # Command R7B and A
    "<TOOLCALL>": "</TOOLCALL>",  # Nemotron Nano v2, Nemotron Super
}
_PHI = "<|/tool|>"
"""Phi-4-mini's template shows tools this way, and no calls."""
MARKERS = (*_REGIONS, *_REGIONS.values())


def fits(template: str) -> bool:
    """Whether the template writes one of these tags."""
    return any(tag in template for tag in (*_REGIONS, _PHI))


def written(calls: Sequence[tuple[str, object]]) -> str:
    """See `tool_parsers`; for Granite 3."""
    return "<|tool_call|>" + write_json([{"name": name, "arguments": arguments} for name, arguments in calls])


class Parser(JsonCalls):
    """See `tool_parsers`."""

    regions = _REGIONS
