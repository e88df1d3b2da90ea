"""From a file of the old form, one process and port for each model, to bain.yaml.

models:
  NAME: {base_model, adapter_dir, model_type: instruct | base, port, use_4bit, system_prompt}
"""

from __future__ import annotations

import io
import os.path
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from bainmarie.errors import ConfigurationError
from bainmarie.settings.edit import plain_letters
from bainmarie.settings.load import parse_settings

_RAW_WINDOWS = re.compile(r'"([A-Za-z]:\\(?!\\)[^"\n]*)"')
"""A Windows path in double quotes whose backslashes were never meant as escapes."""
_WINDOWS = re.compile(r"^[A-Za-z]:[\\/]|^\\\\|^\.{0,2}\\|^[^/]+\\")


@dataclass(frozen=True)
class Imported:
    """The text of a bain.yaml, and what it does not hold."""

    text: str
    left: tuple[str, ...]
    """One line for each thing that was not carried over, or needs a look."""


def import_old(file: Path, target: Path) -> Imported:
    """`target` is where the result will lie; nothing is written.

    ConfigurationError where `file` is not of that form.
    """
    try:
        data = YAML(typ="safe").load(_RAW_WINDOWS.sub(_single_quoted, file.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigurationError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    old = data.get("models") if isinstance(data, dict) else None
    if not isinstance(old, dict) or not all(isinstance(model, dict) for model in old.values()):
        raise ConfigurationError(f"{file}: it has no `models:` with one mapping for each name")
    conversion = _Conversion(file.absolute().parent, target.absolute().parent)
    models = CommentedMap()
    for name, model in old.items():
        models[conversion.name(str(name), models)] = conversion.model(str(name), model)
    conversion.left += [f"{key}: not carried over" for key in data if key != "models"]
    out = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(CommentedMap(version=1, models=models), out)
    parse_settings(out.getvalue(), target)
    return Imported(out.getvalue(), tuple(conversion.left))


class _Conversion:
    """Converts entries and collects what is left."""

    def __init__(self, old_folder: Path, new_folder: Path) -> None:
        self._old_folder, self._new_folder = old_folder, new_folder
        self.left: list[str] = []

    def name(self, name: str, taken: Mapping[str, object]) -> str:
        """A name that requests can use."""
        usable = re.sub(r"[^A-Za-z0-9._:/-]+", "-", plain_letters(name)).strip("-._:/") or "model"
        while usable in taken:
            usable += "-2"
        if usable != name:
            self.left.append(f"{name}: is now named {usable}")
        return usable

    def model(self, name: str, old: Mapping[str, object]) -> CommentedMap:
        new = CommentedMap()
        for key, value in old.items():
            for new_key, new_value in self._key(name, str(key), value):
                new[new_key] = new_value
        if "model" not in new:
            self.left.append(f"{name}: it names no base_model; write one as `model:`")
            new["model"] = "TO/BE-NAMED"
        return new

    def _key(self, name: str, key: str, value: object) -> Iterator[tuple[str, object]]:
        place = f"{name}.{key}"
        if value is None or value == "":
            return
        if key == "base_model":
            yield "model", self._path(place, str(value), hub=True)
        elif key == "adapter_dir":
            yield "adapter", self._path(place, str(value), hub=False)
        elif key == "model_type" and value in ("instruct", "base"):
            if value == "base":
                yield "prompt", "plain"
        elif key == "use_4bit" and isinstance(value, bool):
            if value:
                yield "quantization", "nf4"
        elif key == "system_prompt":
            yield "system_prompt", str(value)
        elif key == "port":
            self.left.append(f"{place}: not needed: all models answer at the gateway's one port")
        else:
            self.left.append(f"{place}: {value!r} was not carried over")

    def _path(self, place: str, value: str, *, hub: bool) -> str:
        """The path as it is from the new file's folder; a hub id as it is."""
        if _WINDOWS.search(value) and os.path.sep == "/":
            return self._from_windows(place, value)
        path = Path(value).expanduser()
        if hub and not path.is_absolute() and not value.startswith(".") and not (self._old_folder / path).exists():
            return value
        absolute = Path(os.path.normpath(self._old_folder / path))
        if not absolute.exists():
            self.left.append(f"{place}: {absolute} is not on this machine; correct it")
        if absolute.is_relative_to(self._new_folder):
            return f"./{absolute.relative_to(self._new_folder).as_posix()}"
        return str(absolute)

    def _from_windows(self, place: str, value: str) -> str:
        """A relative path with its separators turned; an absolute one under /mnt where that is there (WSL)."""
        path = PureWindowsPath(value)
        if not path.drive:
            return self._path(place, f"./{path.as_posix()}", hub=False)
        mounted = Path("/mnt", path.drive[0].lower(), *path.parts[1:])
        if mounted.exists():
            return str(mounted)
        self.left.append(f"{place}: {value} is a Windows path; correct it to where it lies on this machine")
        return f"./{path.name}"


def _single_quoted(match: re.Match[str]) -> str:
    return "'" + match[1].replace("'", "''") + "'"
