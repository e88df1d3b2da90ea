"""`bain --help` beside an empty Python program."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from _gateway import BAIN, median_ms, table

TIMES = 15


def main() -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import click'": [sys.executable, "-c", "import click"],
        "bain --help": [str(BAIN), "--help"],
    }
    rows = []
    for name, command in commands.items():
        start = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        rows.append((name, median_ms(start, TIMES)))
    table(f"Start of the command line (median of {TIMES})", ("command", "ms"), rows)


if __name__ == "__main__":
    main()
