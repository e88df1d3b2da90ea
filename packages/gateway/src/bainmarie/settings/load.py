"""Find bain.yaml, read it, check it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from bainmarie.errors import ConfigurationError
from bainmarie.settings.checks import check
from bainmarie.settings.document import Document, Problem
from bainmarie.settings.explain import problems
from bainmarie.settings.settings import Settings
from bainmarie.settings.shape import File


def config_path(option: Path | str | None, environ: Mapping[str, str], home: Path) -> Path | None:
    """--config, else BAIN_CONFIG, else ./bain.yaml, else bain.yaml in the home; None if there is none of them.

    The first two are returned even if they do not exist: `load_settings` then says so.
    """
    for given in (option, environ.get("BAIN_CONFIG")):
        if given:
            return Path(given).expanduser().absolute()
    for path in (Path.cwd() / "bain.yaml", home / "bain.yaml"):
        if path.is_file():
            return path
    return None


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The checked settings of one file; the built-in ones without a file.

    ConfigurationError with one line `FILE:LINE:COLUMN: what is wrong`, the first problem in the file.
    """
    if path is None:
        return Settings()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        source = "BAIN_CONFIG" if environ.get("BAIN_CONFIG") else "--config"
        raise ConfigurationError(
            f"{path}: there is no such file", hint=f"It was named by {source} or is a default place."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    return parse_settings(text, path)


def parse_settings(text: str, path: Path) -> Settings:
    """As `load_settings`, from a text; `path` stands in messages and relative paths start at its folder."""
    document = Document(path, text)
    context = {"folder": path.absolute().parent}
    data = {} if document.data is None else document.data
    try:
        settings = Settings.model_validate_json(json.dumps(data), context=context)
    except ValidationError as error:
        raise _first(problems(error, document, File), document) from None
    found = list(check(settings))
    if found:
        raise _first(found, document)
    settings._file = path
    return settings


def _first(found: list[Problem], document: Document) -> ConfigurationError:
    def position(problem: Problem) -> tuple[int, int]:
        place = document.place(problem)
        return place.line, place.column

    return document.error(min(found, key=position), more=len(found) - 1)
