"""A YAML file as plain data, with the place of every key and value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from bainmarie.errors import ConfigurationError

KeyPath = tuple[str | int, ...]
Plain = dict[str, "Plain"] | list["Plain"] | str | int | float | bool | None


@dataclass(frozen=True)
class Place:
    """Line and column, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place of the document."""

    path: KeyPath
    message: str
    at_key: bool = False
    """The key itself is wrong, not its value."""


class Document:
    """Raises ConfigurationError for anything that is not YAML with text keys, each given once."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self._lines = text.splitlines()
        self._keys: dict[KeyPath, Place] = {}
        self._values: dict[KeyPath, Place] = {(): Place(1, 1)}
        self.data = self._plain((), self._parse(text))

    def error(self, problem: Problem, more: int = 0) -> ConfigurationError:
        """The problem as one line with its place; `more` others are only counted."""
        others = f" (and {more} more)" if more else ""
        place = self.place(problem)
        return self._error(place, problem.message + others)

    def place(self, problem: Problem) -> Place:
        """Where the problem is; the nearest enclosing value where the path names something absent."""
        path = problem.path
        if problem.at_key and path in self._keys:
            return self._keys[path]
        while path not in self._values:
            path = path[:-1]
        return self._values[path]

    def source(self, path: KeyPath) -> str:
        """The scalar at `path` as it is written in the file."""
        place = self._values[path]
        rest = self._lines[place.line - 1][place.column - 1 :]
        for end in (" #", ",", "}", "]"):
            rest = rest.split(end)[0]
        return rest.strip()

    def value(self, path: KeyPath) -> Plain:
        """The plain value at `path`, which must exist."""
        found: Any = self.data
        for key in path:
            found = found[key]
        return found  # type: ignore[no-any-return]

    def _parse(self, text: str) -> object:
        try:
            return YAML(typ="rt").load(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
            raise self._error(place, _one_line(error)) from error
        except YAMLError as error:
            raise self._error(Place(1, 1), " ".join(str(error).split())) from error

    def _plain(self, path: KeyPath, node: object) -> Plain:
        if isinstance(node, CommentedMap):
            return {str(key): self._plain((*path, key), value) for key, value in self._entries(path, node)}
        if isinstance(node, CommentedSeq):
            for index in range(len(node)):
                line, column = node.lc.item(index)
                self._values[(*path, index)] = Place(line + 1, column + 1)
            return [self._plain((*path, index), value) for index, value in enumerate(node)]
        if node is None or isinstance(node, bool):
            return node
        for kind in (int, float, str):
            if isinstance(node, kind):
                return kind(node)
        return self.source(path)

    def _entries(self, path: KeyPath, node: CommentedMap) -> Iterator[tuple[str, object]]:
        for key, value in node.items():
            here = node.lc.data.get(key) if node.lc.data else None
            if here is not None:
                self._keys[(*path, key)] = Place(here[0] + 1, here[1] + 1)
                # Where nothing is written, the key is the place: the next token may be lines below.
                self._values[(*path, key)] = Place(*(n + 1 for n in (here[:2] if value is None else here[2:])))
            else:  # merged in with `<<`: its place is that of the mapping it was merged into
                self._keys[(*path, key)] = self._values[(*path, key)] = self._values[path]
            if not isinstance(key, str):
                raise self.error(Problem((*path, key), f"the key {key!r} must be text: put it in quotes", at_key=True))
            yield key, value

    def _error(self, place: Place, message: str) -> ConfigurationError:
        return ConfigurationError(f"{self.file}:{place.line}:{place.column}: {message}")


def _one_line(error: MarkedYAMLError) -> str:
    problem = " ".join(str(error.problem or error.context or "not valid YAML").split())
    if problem.startswith("found duplicate key"):
        return problem.split(" with value")[0].replace("found duplicate key", "duplicate key")
    return f"not valid YAML: {problem}"
