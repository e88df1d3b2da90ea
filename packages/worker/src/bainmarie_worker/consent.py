"""Python code that comes with a model's files: run only where the configuration says so, in nested parts too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bainmarie_protocol import WorkerConfig
from bainmarie_worker.errors import LoadError


def check_architecture(config: WorkerConfig, settings: dict[str, Any], transformers: Any) -> None:
    """LoadError `remote_code` or `architecture_unknown` where this version cannot read such a configuration."""
    known = transformers.CONFIG_MAPPING
    if not config.trust_remote_code:
        for place, part in _parts(settings):
            if part.get("auto_map") and part.get("model_type") not in known:
                raise remote_code(config.model, place)
    if settings.get("auto_map") or settings.get("model_type") in known:
        return
    raise LoadError(
        "architecture_unknown",
        f"transformers {transformers.__version__} does not know the architecture {settings.get('model_type')!r} of "
        f"{config.model}",
        "Give the model an environment with a newer transformers.",
    )


def remote_code(model: str, place: str = "") -> LoadError:
    """The refusal of a model's own code."""
    part = f" ({place} in its config.json)" if place else ""
    return LoadError(
        "remote_code",
        f"{model} brings its own Python code{part}, which is not run without consent",
        "Read the code; if you trust it, set `trust_remote_code: true` for this model.",
    )


@contextmanager
def same_consent_for_parts(trusted: bool, directory: str) -> Iterator[None]:
    """Inside, the parts that a model is made of (`from_config` of a nested configuration) get the model's own consent.

    Without it transformers would ask on a terminal that a worker does not have, and look for the part's code nowhere.
    """
    from transformers.models.auto import auto_factory

    own, resolve = auto_factory.get_class_from_dynamic_module, auto_factory.resolve_trust_remote_code

    def resolved(trust: bool | None, *args: Any, **options: Any) -> Any:
        return resolve(trusted if trust is None else trust, *args, **options)

    def found(class_reference: str, place: str, *args: Any, **options: Any) -> Any:
        return own(class_reference, place or directory, *args, **options)

    auto_factory.resolve_trust_remote_code = resolved
    auto_factory.get_class_from_dynamic_module = found
    try:
        yield
    finally:
        auto_factory.resolve_trust_remote_code = resolve
        auto_factory.get_class_from_dynamic_module = own


def _parts(settings: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration and all configurations inside it, each with its place."""
    yield place, settings
    for name, value in settings.items():
        if isinstance(value, dict) and name != "auto_map":
            yield from _parts(value, f"{place}.{name}" if place else name)
