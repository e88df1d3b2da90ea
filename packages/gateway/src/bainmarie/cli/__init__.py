"""The command line `bain`. Every command lives in its own module and is imported when it is called.

stdout is data, stderr is progress and messages. What a command raises becomes an exit code in `outcome`.
"""

from __future__ import annotations


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its code."""
    import sys

    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        from bainmarie.cli import overview

        print(overview.text())  # noqa: T201  click alone would cost as much as all the rest of this call
        return

    from bainmarie.cli.outcome import run

    sys.exit(run(sys.argv[1:]))
