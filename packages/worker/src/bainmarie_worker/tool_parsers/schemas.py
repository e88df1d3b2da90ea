"""The tools of a request: what their JSON schemas say of values that a format writes as bare text."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from bainmarie_worker.tool_parsers.call_json import read_json

_DEPTH = 8
"""Schemas inside schemas that are followed."""
_PYTHON = {"True": True, "False": False, "None": None}


class Schemas:
    """Of the tools in OpenAI's shape. What a tool does not say is read as JSON where it is some, else as text."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._parameters: dict[str, dict[str, Any]] = {}
        for tool in tools:
            parameters = tool["function"].get("parameters")
            self._parameters[tool["function"]["name"]] = parameters if isinstance(parameters, dict) else {}

    def __len__(self) -> int:
        return len(self._parameters)

    def __contains__(self, tool: str) -> bool:
        return tool in self._parameters

    def names(self, tool: str) -> list[str]:
        """The tool's parameters in their order."""
        return list(_properties(self._parameters.get(tool, {})))

    def value(self, tool: str, parameter: str, text: str) -> Any:
        """What the text means; the text itself where it is a string, or no value of the kind that the tool takes."""
        root = self._parameters.get(tool, {})
        kinds = _kinds(_properties(root).get(parameter), root, 0)
        bare = text.strip()
        if "string" in kinds:
            return None if "null" in kinds and bare == "null" else text
        try:
            value = literal(bare)
        except ValueError:
            return text
        if not kinds:
            return value
        if isinstance(value, float) and value.is_integer() and "number" not in kinds:
            value = int(value)
        return value if _kind(value) & kinds else text


def literal(text: str) -> Any:
    """A value written as JSON, or as Python has it. ValueError where it is neither."""
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        return read_json(text)
    except ValueError:
        if not text.startswith(("{", "[")):
            raise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
            json.dumps(value, allow_nan=False)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"neither JSON nor Python: {error}") from error
    return value


def _properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _kinds(schema: Any, root: Mapping[str, Any], depth: int) -> set[str]:
    """The kinds of values that the schema allows, by JSON schema's names; empty where it does not say."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return set()
    kind = schema.get("type")
    kinds = (
        {kind}
        if isinstance(kind, str)
        else {k for k in kind if isinstance(k, str)}
        if isinstance(kind, list)
        else set()
    )
    if schema.get("nullable") is True:
        kinds.add("null")
    if not kinds and isinstance(schema.get("enum"), list):
        kinds = set().union(*map(_kind, schema["enum"]))
    if not kinds and "const" in schema:
        kinds = _kind(schema["const"])
    reference = schema.get("$ref")
    parts = [_target(reference, root)] if isinstance(reference, str) else []
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(union), list):
            parts += schema[union]
    return kinds.union(*(_kinds(part, root, depth + 1) for part in parts))


def _target(reference: str, root: Mapping[str, Any]) -> Any:
    place: Any = root
    for name in reference.lstrip("#/").split("/"):
        place = place.get(name) if isinstance(place, dict) else None
    return place


def _kind(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number"}
    if isinstance(value, str):
        return {"string"}
    return {"array"} if isinstance(value, list) else {"object"}
