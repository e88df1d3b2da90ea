"""The tools that come with bainmarie, in the order in which models are told of them: one file each, one row here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bainmarie.agent.tools.builtin import calculator, current_time, list_dir, read_file, run_shell, write_file
from bainmarie.agent.tools.tool import Arguments, Outcome, Tool, ToolFailed
from bainmarie.errors import BadRequest


@dataclass(frozen=True)
class _Row:
    tool: Tool
    free: Callable[[Arguments], Awaitable[str]] | None = None
    """Does the call of a tool that needs no workspace."""
    confined: Callable[[Arguments, Path], Awaitable[str]] | None = None
    """Does the call of a tool that works in a workspace."""


_ROWS = (
    _Row(calculator.TOOL, free=calculator.call),
    _Row(current_time.TOOL, free=current_time.call),
    _Row(list_dir.TOOL, confined=list_dir.call),
    _Row(read_file.TOOL, confined=read_file.call),
    _Row(write_file.TOOL, confined=write_file.call),
    _Row(run_shell.TOOL, confined=run_shell.call),
)
NAMES = tuple(row.tool.name for row in _ROWS)


class BuiltinTools:
    """The built-in tools for one workspace directory; without one, only those that need none.

    BadRequest for a name that is none of them, or that needs a workspace where there is none.
    """

    def __init__(self, workspace: Path | None, names: Iterable[str] | None = None) -> None:
        self._workspace = workspace
        asked = None if names is None else set(names)
        self._rows: dict[str, _Row] = {}
        for row in _ROWS:
            wanted = asked is None or row.tool.name in asked
            if wanted and (workspace is not None or row.confined is None):
                self._rows[row.tool.name] = row
        missing = sorted((asked or set()) - set(self._rows))
        if missing:
            needs = missing[0] in NAMES
            hint = "Give the run a workspace." if needs else f"Known tools: {', '.join(NAMES)}."
            what = f"the tool {missing[0]!r} needs a workspace" if needs else f"there is no tool {missing[0]!r}"
            raise BadRequest(what, hint=hint, param="tools")

    def definitions(self) -> Sequence[Tool]:
        return [row.tool for row in self._rows.values()]

    async def call(self, name: str, arguments: Arguments) -> Outcome:
        row = self._rows[name]
        try:
            if row.free is not None:
                return Outcome("success", await row.free(arguments))
            assert row.confined is not None
            assert self._workspace is not None
            return Outcome("success", await row.confined(arguments, self._workspace))
        except ToolFailed as error:
            return Outcome("error", f"Error: {error}")
