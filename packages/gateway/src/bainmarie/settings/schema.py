"""The JSON Schema of bain.yaml, and the table of its keys for the documentation: both from `shape`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bainmarie.settings.builtin import BUILT_IN
from bainmarie.settings.shape import File

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. Accepts what the loader accepts, except that an environment's name must exist."""
    schema = _shapes()
    schema["title"] = "bain.yaml"
    models, environments = schema["properties"]["models"], schema["properties"]["environments"]
    models["properties"] = dict.fromkeys(BUILT_IN, models["additionalProperties"])
    models["additionalProperties"] = {"allOf": [models["additionalProperties"], _NEEDS_MODEL]}
    environments["propertyNames"]["not"] = {"const": "auto"}
    return {"$schema": DIALECT, **schema}


def key_table() -> str:
    """A Markdown table with every key of bain.yaml, its type, default and meaning."""
    schema = _shapes()
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for path, field in _keys(schema, schema, ""):
        cells = (f"`{path}`", _kind(field, schema), _default(field), field.get("description", ""))
        rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(rows) + "\n"


_NEEDS_MODEL = {
    "anyOf": [
        {"required": ["engine"], "properties": {"engine": {"enum": ["command", "fake"]}}},
        {"required": ["model"], "properties": {"model": {"type": "string"}}},
    ]
}
"""Models that are not built in name their weights, unless their engine has none."""


def _shapes() -> dict[str, Any]:
    schema = File.model_json_schema(mode="validation")
    for shape in (schema, *schema["$defs"].values()):
        for field in shape.get("properties", {}).values():
            _name_keys(field)
    return schema


def _name_keys(field: dict[str, Any]) -> None:
    """`patternProperties` alone lets every other name pass: say the same with `propertyNames`."""
    if "patternProperties" in field:
        ((pattern, entry),) = field.pop("patternProperties").items()
        field["propertyNames"] = {"pattern": pattern}
        field["additionalProperties"] = entry


def _keys(node: dict[str, Any], schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node["properties"].items():
        path = f"{prefix}{name}"
        inner, suffix = _inside(field, schema)
        if inner is None or suffix:
            yield path, field
        if inner is not None:
            yield from _keys(inner, schema, f"{path}{suffix}.")


def _inside(field: dict[str, Any], schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The named shape that a field holds, and how its entries are written after the field's name."""
    for option in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if "$ref" in option:
            named = schema["$defs"][option["$ref"].rsplit("/", 1)[1]]
            return (named if "properties" in named else None), ""
        for key, suffix in (("additionalProperties", ".NAME"), ("items", "[]")):
            if isinstance(option.get(key), dict) and "$ref" in option[key]:
                return _inside(option[key], schema)[0], suffix
    return None, ""


_KINDS = {"string": "text", "integer": "number", "number": "number", "boolean": "true, false", "object": "keys"}


def _kind(field: dict[str, Any], schema: dict[str, Any]) -> str:
    if "anyOf" in field:
        kinds = [_kind(option, schema) for option in field["anyOf"] if option.get("type") != "null"]
        return "duration" if "number" in kinds and "text" in kinds else kinds[0]
    if "enum" in field:
        return ", ".join(str(word) for word in field["enum"])
    if "const" in field:
        return str(field["const"])
    if "$ref" in field:
        return "keys"
    if field.get("type") == "array":
        return "list"
    return _KINDS[field["type"]] if "type" in field else "text"


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default is None or default in ([], {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
