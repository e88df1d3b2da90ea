"""A tool call written as one JSON object, whole or broken: its name and the text of its arguments."""

from __future__ import annotations

import json
import re
from typing import Any

_NAME = re.compile(r'"(?:name|tool_name)"\s*:\s*("(?:[^"\\]|\\.)*")')
_FIRST_NAME = re.compile(r'\s*\{\s*"(?:name|tool_name)"\s*:\s*("(?:[^"\\]|\\.)*")\s*,')
_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*')


def early_name(text: str) -> str | None:
    """The name, as soon as an object that begins with it has passed it."""
    match = _FIRST_NAME.match(text)
    return _string(match.group(1)) if match else None


def read_json(text: str) -> Any:
    """The value of a JSON text. ValueError for anything else: NaN is no JSON, nor is a number beyond all floats."""
    try:
        value = json.loads(text, strict=False)
        json.dumps(value, allow_nan=False)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def is_object(text: str) -> bool:
    """Whether it is the JSON of an object."""
    try:
        return isinstance(read_json(text), dict)
    except ValueError:
        return False


def write_json(value: Any) -> str:
    """As JSON text that can be sent. ValueError for what no JSON can hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)  # half of a surrogate pair
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not for JSON: {error}") from error
    return text


def arguments_of(text: str) -> str:
    """Arguments that the model wrote as JSON; none for nothing. What is broken stays as it was written."""
    text = text.strip()
    if not text:
        return "{}"
    try:
        value = read_json(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else write_json(value)


def read_call(text: str) -> tuple[str, str] | None:
    """(name, arguments as JSON text) of one call; None where no name can be recognised.

    Broken JSON gives the raw text from the arguments on, so that whoever runs the tool can say what is wrong.
    """
    try:
        data = read_json(text)
    except ValueError:
        return _read_broken(text)
    return call_of(data)


def call_of(data: Any) -> tuple[str, str] | None:
    """(name, arguments as JSON text) of a call that is an object; None where it is none."""
    if not isinstance(data, dict):
        return None
    if isinstance(data.get("function"), dict):
        data = data["function"]
    name = data.get("name", data.get("tool_name"))
    if not isinstance(name, str) or not name:
        return None
    arguments = data.get("arguments", data.get("parameters", {}))
    if arguments is None:
        arguments = {}
    return name, arguments if isinstance(arguments, str) else write_json(arguments)


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
