"""Turn what pydantic says about a document into problems that a person can act on."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bainmarie.settings.document import Document, KeyPath, Plain, Problem

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "mapping_type": "keys with values",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
}
_PATTERNS = {
    "python": 'expected a version in quotes such as "3.10"',
    "memory": "expected a size such as 4GiB",
    "cpu": "expected a size such as 16GiB, or 80%",
    "device": "expected auto, cpu, mps, cuda or cuda:N",
    "health": "expected a path that starts with /",
}


def problems(error: ValidationError, document: Document, root: type[BaseModel]) -> list[Problem]:
    """One problem for each thing pydantic found."""
    return [_problem(details, document, root) for details in error.errors(include_url=False)]


def dotted(path: KeyPath) -> str:
    """models.qwen.packages[0]"""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.lstrip(".")


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _problem(details: ErrorDetails, document: Document, root: type[BaseModel]) -> Problem:
    path = details["loc"]
    kind = details["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path, root)
    if path and path[-1] == "[key]":
        allowed = "letters, digits and . _ -" + (" : /" if path[0] != "environments" else "")
        return Problem(path[:-1], f"the name {path[-2]!r} is not allowed: use {allowed}", at_key=True)
    if kind == "missing":
        return Problem(path[:-1], f"{dotted(path[:-1])} needs the key {path[-1]!r}")
    return Problem(path, f"{dotted(path) or 'the file'}: {_message(details, document)}")


def _unknown_key(path: KeyPath, root: type[BaseModel]) -> Problem:
    key, owner = str(path[-1]), _owner(root, path[:-1])
    known = [field.alias or name for name, field in owner.model_fields.items()]
    where = f" in {dotted(path[:-1])}" if path[:-1] else ""
    hint = nearest(key, known) or f"; known keys: {', '.join(known)}"
    return Problem(path, f"unknown key {key!r}{where}{hint}", at_key=True)


def _message(details: ErrorDetails, document: Document) -> str:
    kind, context, path = details["type"], details.get("ctx", {}), details["loc"]
    value = document.value(path)
    found = f"found {_shown(value, path, document)}"
    if kind in _EXPECTED:
        if kind == "string_type" and isinstance(value, int | float):
            return f"expected text, {found}; put it in quotes"
        return f"expected {_EXPECTED[kind]}, {found}"
    if kind == "literal_error":
        words = [w.strip("'") for w in re.split(r", | or ", context["expected"])]
        near = nearest(value, words) if isinstance(value, str) else ""
        return f"expected {_either(words)}, {found}{near}"
    if kind == "value_error":
        return f"{context['error']}, {found}"
    if kind == "string_pattern_mismatch":
        return f"{_PATTERNS.get(str(path[-1]), 'not a valid value')}, {found}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    message = details["msg"].replace("Input should be", "must be")
    return f"{message[0].lower()}{message[1:]}, {found}"


def _shown(value: Plain, path: KeyPath, document: Document) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {document.source(path)}"
    if isinstance(value, str):
        return f"the text {value if len(value) < 60 else value[:57] + '...'!r}"
    return "a list" if isinstance(value, list) else "keys with values"


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _owner(root: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    """The model class that a path leads to."""
    current: Any = root
    for key in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = _plain_type(current.model_fields[str(key)].annotation)
        else:
            arguments = typing.get_args(current)
            mapping = isinstance(typing.get_origin(current), type) and issubclass(typing.get_origin(current), Mapping)
            current = _plain_type(arguments[1] if mapping else arguments[0])
    return current  # type: ignore[no-any-return]


def _plain_type(annotation: Any) -> Any:
    """Without `Annotated` and without `| None`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain_type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _plain_type(next(a for a in typing.get_args(annotation) if a is not type(None)))
    return annotation
