"""`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`: GLM 4.5 and later."""

from __future__ import annotations

import re

from bainmarie_worker.tool_parsers.elements import Elements

MARKERS = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")


def fits(template: str) -> bool:
    """Whether the template writes calls this way."""
    return "<tool_call>" in template and "<arg_key>" in template


class Parser(Elements):
    """See `tool_parsers`."""

    regions = {"<tool_call>": "</tool_call>"}  # noqa: RUF012 - not changed
    head = re.compile(r"\s*([^\s<{\[]+)(?=\s*<|\s*\n)")
    parameter = re.compile(
        r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)(?P<end></arg_value>|$)", re.DOTALL
    )
