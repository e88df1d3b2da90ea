"""Rotary positions as transformers 5 writes them into config.json, for an earlier release.

5 writes `rope_parameters` with base and scaling in it; 4 passes over that name, reads `rope_theta` and `rope_scaling`,
and would compute with other positions and say nothing. Sources: modeling_rope_utils.py of 4.46, 4.57 and 5.23.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from bainmarie_protocol.versions import numbers
from bainmarie_worker.errors import LoadError

_SCALINGS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": ("long_factor", "short_factor", "attention_factor"),
    "yarn": ("factor", "attention_factor", "beta_fast", "beta_slow"),
}
"""By kind: what release 4 reads and means as 5 does."""
_ORIGINAL = "original_max_position_embeddings"
_BASES, _PARTS = ("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")
"""Names that release 4 has for the base, and for the part of a head that is rotated."""
_YARN_KNOWS_ORIGINAL = (4, 57)
"""Since when yarn reads the original length and leaves the factor alone."""


def for_earlier(settings: dict[str, Any], known: Mapping[str, Any], version: str) -> dict[str, Any] | None:
    """config.json as the release `version`, earlier than 5, reads it; None where nothing in it needs that.

    `known`: its configuration classes by model_type. LoadError `version_too_old` where it cannot say the same.
    """
    found = {name: _part(part, known, version) for name, part in settings.items() if isinstance(part, dict)}
    parts = {name: part for name, part in found.items() if part is not None}
    plain = {name: value for name, value in settings.items() if name != "rope_parameters"}
    read = _translated(settings, known, version) if settings.get("rope_parameters") else plain
    return {**read, **parts} if parts or read != plain else None


def remark(version: str) -> str:
    """For the status of a model that was read so."""
    return (
        f"transformers {version}: rope_parameters of config.json, which 5 writes, were read as those of an earlier one"
    )


def _part(part: dict[str, Any], known: Mapping[str, Any], version: str) -> dict[str, Any] | None:
    return for_earlier(part, known, version) if isinstance(part.get("model_type"), str) else None


def _translated(settings: dict[str, Any], known: Mapping[str, Any], version: str) -> dict[str, Any]:
    given = {name: value for name, value in settings["rope_parameters"].items() if value is not None}
    kind, base = given.pop("rope_type", "default"), given.pop("rope_theta", None)
    if any(isinstance(value, dict) for value in given.values()):
        raise _refused(version, "gives each kind of layer positions of its own")
    if kind not in _SCALINGS or base is None:
        raise _refused(version, f"has rope_type {kind!r} with rope_theta {base}")
    taken = inspect.signature(known[settings["model_type"]].__init__).parameters
    result = {name: value for name, value in settings.items() if name != "rope_parameters"}
    result[_name(_BASES, taken, version)] = base
    part = given.pop("partial_rotary_factor", None)
    if part is not None and (part != 1 or any(name in taken for name in _PARTS)):
        result[_name(_PARTS, taken, version)] = part
    scaling = {"type": kind, **{name: given.pop(name) for name in _SCALINGS[kind] if name in given}}
    _of_length(kind, given, scaling, result, version)
    if given:
        raise _refused(version, f"sets {', '.join(sorted(given))} for rope_type {kind!r}")
    if kind != "default":
        _name(("rope_scaling",), taken, version)
        result["rope_scaling"] = scaling
    return result


def _of_length(kind: str, given: dict[str, Any], scaling: dict[str, Any], result: dict[str, Any], version: str) -> None:
    """Puts the length that was trained with, before it was scaled, where release 4 looks for it."""
    original, longest = given.pop(_ORIGINAL, None), result.get("max_position_embeddings")
    if kind == "longrope":
        result[_ORIGINAL] = original = original or result.get(_ORIGINAL)
        factor = given.pop("factor", None)
        if not original or not longest or factor not in (None, longest / original):
            raise _refused(version, f"scales {original} tokens by {factor}, and not to {longest}")
    elif kind == "yarn" and original not in (None, longest):
        if numbers(version) < _YARN_KNOWS_ORIGINAL:
            raise _refused(version, f"scales {original} tokens where max_position_embeddings is {longest}")
        scaling[_ORIGINAL] = original


def _name(names: tuple[str, ...], taken: Mapping[str, Any], version: str) -> str:
    for name in names:
        if name in taken:
            return name
    raise _refused(version, f"needs {names[0]}, which this family does not have there")


def _refused(version: str, why: str) -> LoadError:
    return LoadError(
        "version_too_old",
        f"config.json was saved by transformers 5, and transformers {version} cannot compute its positions: "
        f"rope_parameters {why}",
        "Give the model an environment with transformers>=5, or `environment: auto`.",
    )
