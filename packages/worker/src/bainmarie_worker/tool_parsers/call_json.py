"""A tool call written as one JSON object, whole or broken: its name and the text of its arguments."""

from __future__ import annotations

import json
import re

_NAME = re.compile(r'"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_FIRST_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,')
_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*')


def early_name(text: str) -> str | None:
    """The name, as soon as an object that begins with it has passed it."""
    match = _FIRST_NAME.match(text)
    return _string(match.group(1)) if match else None


def read_call(text: str) -> tuple[str, str] | None:
    """(name, arguments as JSON text) of one call; None where no name can be recognised.

    Broken JSON gives the raw text from the arguments on, so that whoever runs the tool can say what is wrong.
    """
    try:
        data = json.loads(text, strict=False)
    except ValueError:
        return _read_broken(text)
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or not data["name"]:
        return None
    arguments = data.get("arguments", data.get("parameters", {}))
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return data["name"], arguments


def _read_broken(text: str) -> tuple[str, str] | None:
    match = _NAME.search(text)
    name = _string(match.group(1)) if match else None
    if not name:
        return None
    start = _ARGUMENTS.search(text)
    return name, (text[start.end() :] if start else text).strip()


def _string(quoted: str) -> str | None:
    try:
        value = json.loads(quoted, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
