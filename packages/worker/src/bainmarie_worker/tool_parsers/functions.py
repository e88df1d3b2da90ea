"""`<function=NAME><parameter=KEY>VALUE</parameter></function>`: Qwen3-Coder, Qwen3.5, Nemotron 3, MiMo, Seed-OSS.

A value stands on lines of its own. `<tool_call>` stands around it; models forget that at times.
"""

from __future__ import annotations

import re

from bainmarie_worker.tool_parsers.elements import Elements

MARKERS = ("<tool_call>", "</tool_call>", "<seed:tool_call>", "</seed:tool_call>")


def fits(template: str) -> bool:
    """Whether the template writes calls this way."""
    return "<function=" in template and "</function>" in template


class Parser(Elements):
    """See `tool_parsers`."""

    regions = {  # noqa: RUF012 - not changed
        "<tool_call>": "</tool_call>",
        "<seed:tool_call>": "</seed:tool_call>",
        "<function=": "</function>",
    }
    kept = ("<function=",)
    stray = ("</tool_call>", "</seed:tool_call>")
    head = re.compile(r"\s*<function=([^>\n]*)>")
    parameter = re.compile(
        r"<parameter=(?P<key>[^>\n]*)>(?P<value>.*?)"
        r"(?:(?P<end></parameter>)(?=\s*(?:<parameter=|$))|(?=\n<parameter=[^>\n]+>\n)|$)",
        re.DOTALL,
    )
    tag = "</function>"
    end = re.compile(r"\s*</function>")

    def trimmed(self, value: str) -> str:
        start, end = value.startswith("\n"), len(value) > 1 and value.endswith("\n")
        return value[start : len(value) - end]
