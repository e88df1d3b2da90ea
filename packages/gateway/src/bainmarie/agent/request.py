"""What a caller asks a run to be."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from bainmarie.agent.given import items_from
from bainmarie.agent.items import Item, Message
from bainmarie.agent.policy import ACTIONS, Action, Rule
from bainmarie.errors import BadRequest

T = TypeVar("T")

_SAMPLING: dict[str, type | tuple[type, ...]] = {
    "max_tokens": int,
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": int,
    "min_p": (int, float),
    "seed": int,
    "stop": (str, list),
    "reasoning_effort": str,
    "chat_template_kwargs": dict,
}
"""Passed on to the worker, which knows the ranges."""
_OTHERS = {
    *("model", "prompt", "messages", "system_prompt", "workspace", "tools", "approval", "rules", "max_iterations"),
    *("interactive", "stream", "session"),
}


@dataclass(frozen=True)
class RunRequest:
    """One run. `given` are the items it starts from; None leaves a choice to the configuration."""

    model: str
    given: tuple[Item, ...]
    workspace: Path | None = None
    tools: tuple[str, ...] | None = None
    """Offer only these; None offers all that can work."""
    approval: Action | None = None
    rules: tuple[Rule, ...] = ()
    """Beside those of the configuration; a configured deny or ask cannot be lifted by them."""
    max_iterations: int | None = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    interactive: bool = False
    """Somebody is there to decide: the run waits for them, and is cancelled when they leave."""
    session: str = ""
    """Runs of one session share what was allowed `always in this session`; empty is a session of its own."""

    def to_json(self) -> dict[str, object]:
        """All but `given`, which is saved as items."""
        return {
            "model": self.model,
            "workspace": str(self.workspace) if self.workspace else None,
            "tools": list(self.tools) if self.tools is not None else None,
            "approval": self.approval,
            "rules": [{"tool": rule.tool, "action": rule.action} for rule in self.rules],
            "max_iterations": self.max_iterations,
            **self.sampling,
            "interactive": self.interactive,
            "session": self.session,
        }


def read_request(data: Mapping[str, object]) -> RunRequest:
    """A request from JSON. BadRequest with `param` where something is off, an unknown key too."""
    for key in data:
        if key not in _OTHERS and key not in _SAMPLING:
            near = difflib.get_close_matches(key, [*_OTHERS, *_SAMPLING], n=1)
            hint = f"Did you mean {near[0]!r}?" if near else ""
            raise BadRequest(f"a run has no field {key!r}", hint=hint, code="unknown_parameter", param=key)
    return saved_request(data, _given(data))


def saved_request(data: Mapping[str, object], given: tuple[Item, ...] = ()) -> RunRequest:
    """The inverse of `to_json`."""
    sampling = {key: value for key, kind in _SAMPLING.items() if (value := _take(data, key, kind)) is not None}
    model = _take(data, "model", str)
    if not model:
        raise BadRequest("a run needs 'model'", code="missing_parameter", param="model")
    return RunRequest(
        model=str(model),
        given=given,
        workspace=_workspace(data),
        tools=_tools(data),
        approval=_action(data.get("approval"), "approval"),
        rules=_rules(data),
        max_iterations=_iterations(data),
        sampling=sampling,
        interactive=bool(_take(data, "interactive", bool)),
        session=str(_take(data, "session", str) or ""),
    )


def _take(data: Mapping[str, object], key: str, kind: type | tuple[type, ...]) -> object:
    """The value of a key, None where it is missing or null. A truth value is no number."""
    value = data.get(key)
    if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(_NAMES[one] for one in kinds)
        raise BadRequest(f"{key!r} must be {names}", code="invalid_type", param=key)
    return value


_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _given(data: Mapping[str, object]) -> tuple[Item, ...]:
    prompt, system = _take(data, "prompt", str), _take(data, "system_prompt", str)
    if (prompt is None) == (data.get("messages") is None):
        raise BadRequest("a run needs either 'prompt' or 'messages'", code="missing_parameter", param="prompt")
    items = items_from(data["messages"]) if prompt is None else (Message("user", str(prompt)),)
    if system is None:
        return items
    if any(isinstance(item, Message) and item.role == "system" for item in items):
        raise BadRequest("'messages' has a system message and 'system_prompt' is a second one", param="system_prompt")
    return (Message("system", str(system)), *items)


def _workspace(data: Mapping[str, object]) -> Path | None:
    text = _take(data, "workspace", str)
    if text is None:
        return None
    path = Path(str(text))
    if not path.is_absolute() or not path.is_dir():
        what = "is no folder" if path.is_absolute() else "is not absolute"
        raise BadRequest(f"'workspace' must be a folder by its whole path; {text!r} {what}", param="workspace")
    return path


def _tools(data: Mapping[str, object]) -> tuple[str, ...] | None:
    names = cast("list[Any] | None", _take(data, "tools", list))
    if names is None:
        return None
    if not all(isinstance(name, str) for name in names):
        raise BadRequest("'tools' must be a list of names", param="tools")
    return tuple(names)


def _action(value: object, param: str) -> Action | None:
    if value is not None and value not in ACTIONS:
        raise BadRequest(f"{param!r} must be one of {', '.join(ACTIONS)}, not {value!r}", param=param)
    return value


def _rules(data: Mapping[str, object]) -> tuple[Rule, ...]:
    rules = []
    for number, rule in enumerate(cast("list[Any]", _take(data, "rules", list) or [])):
        where = f"rules[{number}]"
        if not isinstance(rule, dict) or set(rule) != {"tool", "action"} or not isinstance(rule["tool"], str):
            raise BadRequest(f"{where} must be an object with 'tool' and 'action'", param=where)
        action = _action(rule["action"], f"{where}.action")
        if action is None:
            raise BadRequest(f"{where} needs an action", param=f"{where}.action")
        rules.append(Rule(rule["tool"], action))
    return tuple(rules)


def _iterations(data: Mapping[str, object]) -> int | None:
    value = cast("int | None", _take(data, "max_iterations", int))
    if value is not None and value < 1:
        raise BadRequest("'max_iterations' must be at least 1", param="max_iterations")
    return value
