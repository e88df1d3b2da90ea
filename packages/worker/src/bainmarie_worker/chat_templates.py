"""Which chat template a model name speaks: the configuration's, else its adapter's, else the model's own."""

from __future__ import annotations

import json
import os
from typing import Any

from bainmarie_protocol import ServedModel
from bainmarie_worker.errors import LoadError

_FILE = "chat_template.jinja"


def configured(model: ServedModel) -> str | None:
    """The template that the configuration gives this name; LoadError `model_incomplete` if its file cannot be read."""
    text = model.chat_template
    if text is None or _is_text(text):
        return text
    try:
        return _read(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LoadError(
            "model_incomplete",
            f"the chat template of {model.name!r} cannot be read: {text}: {reason}",
            "`chat_template:` is a template's text, or the path of a file that holds it.",
        ) from error


def broken(model: ServedModel, error: BaseException) -> LoadError:
    """What a mistake in the syntax of the template that the configuration gives this name means."""
    text = model.chat_template or ""
    where = "its text" if _is_text(text) else text
    return LoadError(
        "model_incomplete",
        f"the chat template of {model.name!r} is broken: {where}, line {getattr(error, 'lineno', 0)}: {error}",
        "Correct the template that `chat_template:` gives, or take it out to use the model's own.",
    )


def of_directory(directory: str) -> str | None:
    """The template in a directory's own files, as save_pretrained writes them; None where there is none."""
    try:
        return _read(os.path.join(directory, _FILE))
    except OSError:
        pass
    try:
        with open(os.path.join(directory, "tokenizer_config.json"), encoding="utf-8") as file:
            template = json.load(file).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    return chosen(template) or None


def chosen(template: Any) -> str:
    """The source; of several named ones the one for tools, as transformers itself chooses."""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    return template or ""


def _is_text(given: str) -> bool:
    """Whether it is the template itself, and no path."""
    return "{%" in given or "{{" in given or "\n" in given


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
