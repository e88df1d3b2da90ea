"""The check of a call's arguments: strict JSON, then the tool's schema. What is wrong is said to the model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NoReturn

import jsonschema
from jsonschema.exceptions import ValidationError, best_match
from referencing.jsonschema import EMPTY_REGISTRY

from bainmarie.agent.tools.tool import Arguments, Tool, ToolFailed

MAX_CHARACTERS = 4_000_000
"""Longer argument texts are refused unread."""


def parse(tool: Tool, text: str) -> Arguments:
    """The arguments of a call of `tool`, complete and of the right types. No text at all is an empty object.

    ToolFailed says what is wrong: not JSON, a key twice, not an object, or what the schema does not allow. A tool whose
    schema does not name `additionalProperties` takes only the arguments it names.
    """
    arguments = _object(text)
    allowed = tool.parameters.get("properties")
    names = list(allowed) if isinstance(allowed, dict) else []
    if "additionalProperties" not in tool.parameters or tool.parameters["additionalProperties"] is False:
        _refuse_surplus(tool, arguments, names)
    required = tool.parameters.get("required")
    for name in required if isinstance(required, list) else []:
        if name not in arguments:
            raise ToolFailed(f"{tool.name} needs the argument {name!r}.")
    # An empty registry: a schema from elsewhere must not make us fetch what it points to.
    validator = jsonschema.Draft202012Validator(dict(tool.parameters), registry=EMPTY_REGISTRY)
    wrong = best_match(validator.iter_errors(arguments))
    if wrong is not None:
        raise ToolFailed(f"the arguments of {tool.name} are wrong: {_said(wrong)}.")
    return arguments


def _object(text: str) -> Arguments:
    if len(text) > MAX_CHARACTERS:
        raise ToolFailed(f"the arguments are too long: {len(text)} characters, at most {MAX_CHARACTERS}.")
    try:
        value = json.loads(text or "{}", object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ToolFailed(f"the arguments are not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ToolFailed("the arguments are not a JSON object.")
    return value


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A reader that takes the first of two keys would show a person another call than the one that runs."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_surplus(tool: Tool, arguments: Arguments, allowed: Iterable[str]) -> None:
    surplus = [name for name in arguments if name not in allowed]
    if surplus:
        known = ", ".join(allowed) or "none"
        raise ToolFailed(f"{tool.name} has no argument {surplus[0]!r}. Its arguments: {known}.")


def _said(error: ValidationError) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    message = error.message if len(error.message) <= 300 else error.message[:150] + " ... " + error.message[-150:]
    return f"{where}: {message}" if where else message
