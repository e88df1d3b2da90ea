"""`<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>`: MiniMax M2, DeepSeek V3.2."""

from __future__ import annotations

import re

from bainmarie_worker.tool_parsers.elements import Elements

_DSML = "｜DSML｜"
_REGIONS = {
    "<minimax:tool_call>": "</minimax:tool_call>",
    f"<{_DSML}function_calls>": f"</{_DSML}function_calls>",
    f"<{_DSML}tool_calls>": f"</{_DSML}tool_calls>",
}
MARKERS = (*_REGIONS, *_REGIONS.values(), _DSML)


def fits(template: str) -> bool:
    """Whether the template writes calls this way."""
    return "minimax:tool_call" in template or _DSML in template


class Parser(Elements):
    """See `tool_parsers`."""

    regions = _REGIONS
    head = re.compile(rf"\s*<(?:{_DSML})?invoke name=([^>\n]*)>")
    parameter = re.compile(
        rf'<(?:{_DSML})?parameter name="?(?P<key>[^>"\n]*)"?(?: string="(?P<text>true|false)")?>(?P<value>.*?)'
        rf"(?:(?P<end></(?:{_DSML})?parameter>)(?=\s*(?:<(?:{_DSML})?parameter name=|$))|$)",
        re.DOTALL,
    )
    tag = "invoke>"
    end = re.compile(rf"\s*</(?:{_DSML})?invoke>")
