"""`python -m bainmarie.settings FILE`: write the table of keys into a Markdown file, between its two markers."""

from __future__ import annotations

import sys
from pathlib import Path

from bainmarie.settings.schema import key_table

BEGIN, END = "<!-- keys -->\n", "<!-- /keys -->\n"


def with_table(text: str) -> str:
    """The text with the present table. ValueError where a marker is missing."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the markers {BEGIN.strip()} and {END.strip()} are missing")
    return f"{before}{BEGIN}{key_table()}{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_table(file.read_text(encoding="utf-8")), encoding="utf-8")
