"""The whole answer is a list of calls written as Python: `[f(a=1), g(b="x")]`, as Llama 4 is taught."""

from __future__ import annotations

import re

from bainmarie_worker.tool_parsers.python_calls import early_name, read_calls
from bainmarie_worker.tool_parsers.whole import Whole

_START, _END = "<|python_start|>", "<|python_end|>"
MARKERS = (_START, _END)
_TAUGHT = re.compile(r"\[func_name1\(")


def fits(template: str) -> bool:
    """Whether the template teaches this form."""
    return _TAUGHT.search(template) is not None


class Parser(Whole):
    """See `tool_parsers`."""

    begins = ("[", _START)

    def calls(self, text: str) -> list[tuple[str, str]]:
        text = text.removeprefix(_START).removesuffix(_END).strip()
        return read_calls(text, self.schemas) if text.endswith("]") and early_name(text) else []
