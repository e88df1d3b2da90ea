"""Calls written as Python, which is read and never run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence

from bainmarie_worker.tool_parsers.call_json import write_json
from bainmarie_worker.tool_parsers.schemas import Schemas

_FIRST = re.compile(r"\s*\[?\s*([A-Za-z_][\w.]*)\(")
_JSON = {"true": True, "false": False, "null": None}


def early_name(text: str) -> str | None:
    """The name of the first call, as soon as its arguments begin."""
    match = _FIRST.match(text)
    return match.group(1) if match else None


def read_calls(text: str, schemas: Schemas) -> list[tuple[str, str]]:
    """(name, arguments as JSON text) of each; empty where there is none.

    Positions are taken for parameters in the schema's order. What is no Python, or more than plain values, is one call
    with the arguments as they were written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(text.strip()).body
        calls = [node for statement in body for node in _listed(statement)]
        return [_read(call, schemas) for call in calls]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        match = _FIRST.match(text)
        return [(match.group(1), text[match.end() :].strip())] if match else []


def write_calls(calls: Sequence[tuple[str, object]]) -> str:
    """The calls (name, arguments), one behind the other. Arguments that are no object stand as they are."""
    return ", ".join(f"{name}({_arguments(arguments)})" for name, arguments in calls)


def _arguments(arguments: object) -> str:
    if not isinstance(arguments, dict):
        return str(arguments)
    values = [(key, write_json(value) if isinstance(value, str) else repr(value)) for key, value in arguments.items()]
    return ", ".join(f"{key}={value}" for key, value in values)


def _listed(statement: ast.stmt) -> list[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise ValueError("no call")
    value = statement.value
    return value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]


def _read(call: ast.expr, schemas: Schemas) -> tuple[str, str]:
    if not isinstance(call, ast.Call):
        raise ValueError("no call")
    name = _name(call.func)
    names = schemas.names(name)
    if len(call.args) > len(names):
        raise ValueError("more positions than parameters")
    values = {key: _value(node) for key, node in zip(names, call.args)}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in values:
            raise ValueError("no plain argument, or one given twice")
        values[keyword.arg] = _value(keyword.value)
    return name, write_json(values)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    raise ValueError("no name")


def _value(node: ast.expr) -> object:
    value: object = ast.literal_eval(_Literals().visit(node))
    return value


class _Literals(ast.NodeTransformer):
    """JSON's names of values become Python's."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(_JSON[node.id]), node) if node.id in _JSON else node
