"""`[TOOL_CALLS]`, then a list of calls as JSON in older models, `NAME[ARGS]{...}` in newer ones: Mistral."""

from __future__ import annotations

import re

from bainmarie_worker.tool_parsers.headed import Headed
from bainmarie_worker.tool_parsers.json_calls import take_json
from bainmarie_worker.tool_parsers.tagged import Taken

_TAG = "[TOOL_CALLS]"
MARKERS = (_TAG, "[ARGS]", "[CALL_ID]")


def fits(template: str) -> bool:
    """Whether the template writes calls this way."""
    return _TAG in template


class Parser(Headed):
    """See `tool_parsers`. Nothing closes a call but the next one."""

    regions = {_TAG: _TAG}  # noqa: RUF012 - not changed
    head = re.compile(r"\s*(?P<name>[\w.:/-]+)\s*(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\]\s*|(?=\{))")

    def take(self, body: str, closed: bool) -> Taken | None:
        return super().take(body, closed) or take_json(body, closed)
