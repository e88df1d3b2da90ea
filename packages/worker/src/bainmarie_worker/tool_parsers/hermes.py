"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3, Granite 4, SmolLM3, others."""

from __future__ import annotations

from collections.abc import Sequence

from bainmarie_worker.tool_parsers.call_json import write_json
from bainmarie_worker.tool_parsers.json_calls import JsonCalls

MARKERS = ("<tool_call>", "</tool_call>")


def fits(template: str) -> bool:
    """Whether the template writes calls this way, with a JSON object inside (not XML, as some models do)."""
    return MARKERS[0] in template and "<function=" not in template and "<arg_key>" not in template


def written(calls: Sequence[tuple[str, object]]) -> str:
    """See `tool_parsers`; for SmolLM3."""
    texts = [write_json({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


class Parser(JsonCalls):
    """See `tool_parsers`."""

    regions = {"<tool_call>": "</tool_call>"}  # noqa: RUF012 - not changed
