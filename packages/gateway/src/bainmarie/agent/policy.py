"""What happens to a call before anybody runs it: allow, ask or deny. Pure functions over rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from bainmarie.agent.tools.tool import Tool
from bainmarie.store.approvals import Grant

Action = Literal["ask", "allow", "deny"]
ACTIONS: tuple[Action, ...] = ("ask", "allow", "deny")


@dataclass(frozen=True)
class Rule:
    """What to do with calls of the tools whose names match `tool`, a name or a pattern such as `files_*`."""

    tool: str
    action: Action


@dataclass(frozen=True)
class ToolSettings:
    """The part of the configuration that runs need."""

    approval: Action = "ask"
    """For calls that no rule matches."""
    rules: tuple[Rule, ...] = ()
    max_iterations: int = 20
    """Turns of one run that may call tools."""
    workspace: Path | None = None
    """The only directory that file tools see; None leaves the choice to each run."""
    time_limit: float = 60.0
    """Seconds for one call, also where the tool itself would take longer."""


def decide(tool: Tool, rules: Iterable[Rule], grants: Collection[Grant], default: Action) -> Action:
    """Among the matching rules deny wins over ask and ask over allow; `default` where none matches.

    A grant answers what would be asked, and only that; it holds while the tool's definition is the one it was given
    for.
    """
    actions = {rule.action for rule in rules if fnmatchcase(tool.name, rule.tool)} or {default}
    if "deny" in actions:
        return "deny"
    if "ask" in actions:
        return "allow" if Grant(tool.name, tool.definition_hash) in grants else "ask"
    return "allow"
