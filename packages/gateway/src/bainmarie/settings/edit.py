"""Adding to bain.yaml without touching what stands there: comments, order and quotes stay."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from bainmarie.errors import BadRequest
from bainmarie.settings.load import parse_settings

_EMPTY = "version: 1\n"
_PATHS = ("model", "adapter", "base")


def model_name(wanted: str) -> str:
    """A name that requests can use, made of a path's or hub id's last part."""
    last = plain_letters(re.split(r"[/\\]", wanted.rstrip("/\\"))[-1].casefold())
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")
    return name.removesuffix(".gguf") or "model"


def plain_letters(text: str) -> str:
    """Letters without their accents: \u00dc is U. Other alphabets stay."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def with_model(text: str, file: Path, name: str, entry: Mapping[str, object]) -> str:
    """The file's text with one more model. Paths below the file's folder are written relative to it.

    BadRequest where the name is taken; ConfigurationError where the text, before or after, is not right.
    """
    parse_settings(text or _EMPTY, file)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(text or _EMPTY) or CommentedMap(version=1)
    if document.get("models") is None:
        document["models"] = CommentedMap()
    if name in document["models"]:
        raise BadRequest(
            f"{file} has a model {name!r} already", hint="Choose another name: --name NAME", code="model_exists"
        )
    document["models"][name] = _written(entry, file.absolute().parent)
    out = io.StringIO()
    yaml.dump(document, out)
    parse_settings(out.getvalue(), file)
    return out.getvalue()


def _written(entry: Mapping[str, object], folder: Path) -> CommentedMap:
    written = CommentedMap()
    for key, value in entry.items():
        if key in _PATHS and isinstance(value, str):
            value = _relative(value, folder)
        written[key] = CommentedSeq(value) if isinstance(value, list) else value
    written.fa.set_flow_style()
    return written


def _relative(value: str, folder: Path) -> str:
    path = Path(value)
    if not path.is_absolute() or not path.is_relative_to(folder):
        return value
    return f"./{path.relative_to(folder).as_posix()}"
