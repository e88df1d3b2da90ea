"""From what a command raises to what a person reads and which code the process exits with."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from bainmarie.cli import group, terminal
from bainmarie.errors import BainError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
BROKEN_PIPE = 141
"""128 + SIGPIPE: what a shell shows for a program whose reader went away."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Returns the exit code; what is not foreseen is a defect and keeps its traceback."""
    try:
        result = group.invoke(arguments)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        terminal.say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return BROKEN_PIPE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except BainError as error:
        terminal.show_error(error)
        return error.exit_code
    return result if isinstance(result, int) else 0


def _drop_stdout() -> None:
    """Let the interpreter's last flush go nowhere instead of failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
