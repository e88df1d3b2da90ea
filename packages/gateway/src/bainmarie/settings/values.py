"""Kinds of values in the configuration: durations, names, paths."""

from __future__ import annotations

import math
import os.path
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, StringConstraints, WithJsonSchema
from pydantic_core.core_schema import ValidationInfo

FOREVER = math.inf
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"^(forever|\d+(\.\d+)?[smhd])$"
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://")


def parse_duration(value: object) -> float:
    """Seconds: 90, "90s", "30m", "2h", "1d"; "forever" is infinite. ValueError on anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and not math.isnan(value):
        return float(value)
    if isinstance(value, str) and re.match(_DURATION, value):
        return FOREVER if value == "forever" else float(value[:-1]) * _UNITS[value[-1]]
    raise ValueError('expected a duration such as 30m, 90s, 2h, 0 or "forever"')


def _written(seconds: float) -> float | str:
    return "forever" if math.isinf(seconds) else seconds


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(_written),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": _DURATION}]}),
]
"""Seconds; `math.inf` is for ever."""


def looks_like_path(value: str) -> bool:
    """Written as a path, whatever exists: ./x, ../x, /x, ~/x, also C:\\x on Windows."""
    return value in (".", "..", "~") or value.startswith(("./", "../", "~/", "~\\", ".\\", "..\\")) or _absolute(value)


def _absolute(value: str) -> bool:
    return Path(value).is_absolute()


def _folder(info: ValidationInfo) -> Path:
    context: Any = info.context or {}
    return context["folder"] if "folder" in context else Path.cwd()


def _resolved(value: str, folder: Path) -> str:
    # Not resolve(): a virtual environment's interpreter is a symbolic link that must stay one.
    return os.path.normpath(folder / Path(value).expanduser())


def _as_path(value: str, info: ValidationInfo) -> str:
    return _resolved(value, _folder(info))


def _as_model(value: str, info: ValidationInfo) -> str:
    folder = _folder(info)
    return _resolved(value, folder) if looks_like_path(value) or (folder / value).is_dir() else value


def _as_source(value: str, info: ValidationInfo) -> str:
    return value if _ADDRESS.match(value) else _resolved(value, _folder(info))


def _as_template(value: str, info: ValidationInfo) -> str:
    written_out = "{%" in value or "{{" in value or "\n" in value
    return value if written_out else _resolved(value, _folder(info))


_SIZE_UNITS = {"MiB": 2**20, "GiB": 2**30, "MB": 10**6, "GB": 10**9}


def bytes_of(size: str, of: int | None = None) -> int:
    """Bytes of a `Size` such as 16GiB, or 80% of so many; of this machine's memory, if that is not given."""
    if size.endswith("%"):
        import psutil

        return int(float(size[:-1]) / 100 * (psutil.virtual_memory().total if of is None else of))
    number = size.rstrip("BGMi")
    return int(float(number) * _SIZE_UNITS[size[len(number) :]])


Size = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(MiB|GiB|MB|GB|%)$")]
"""See `bytes_of`."""
Text = Annotated[str, StringConstraints(min_length=1)]
PathText = Annotated[Text, AfterValidator(_as_path)]
"""Absolute; relative ones start at the configuration file's folder."""
ModelText = Annotated[Text, AfterValidator(_as_model)]
"""An absolute directory, or a hub id."""
TemplateText = Annotated[Text, AfterValidator(_as_template)]
"""A chat template, or an absolute path."""
SourceText = Annotated[Text, AfterValidator(_as_source)]
"""An address, or an absolute directory."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
