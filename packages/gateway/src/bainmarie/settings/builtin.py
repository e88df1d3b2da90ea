"""The models that come with bainmarie. An entry of the same name in bain.yaml changes single settings."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bainmarie.carried import demo_model
from bainmarie.settings.shape import ModelSettings

_OF_THE_WORKER = (
    "engine", "model", "base", "quantization", "environment", "dtype", "device", "device_map", "context",
    "allow_pickle", "trust_remote_code", "options",
)  # fmt: skip

BUILT_IN: Mapping[str, ModelSettings] = MappingProxyType(
    {
        "demo": ModelSettings.model_construct({"model"}, model=str(demo_model("demo"))),
        "demo-pirate": ModelSettings.model_construct(
            {"model", "adapter"}, model=str(demo_model("demo")), adapter=str(demo_model("demo-pirate"))
        ),
        "demo-pirate-merged": ModelSettings.model_construct({"model"}, model=str(demo_model("demo-pirate-merged"))),
    }
)


def with_built_in(models: Mapping[str, ModelSettings]) -> dict[str, ModelSettings]:
    """The built-in models first, each with the changes that `models` brings, then the others in their order.

    What `demo` changes about its worker holds for its adapter `demo-pirate` too: one worker serves both.
    """
    merged = {name: changed(built_in, models.get(name)) for name, built_in in BUILT_IN.items()}
    shared = {key: getattr(merged["demo"], key) for key in _OF_THE_WORKER}
    if merged["demo"].adapter is None and merged["demo"].model == BUILT_IN["demo"].model:
        merged["demo-pirate"] = changed(BUILT_IN["demo-pirate"].model_copy(update=shared), models.get("demo-pirate"))
    return {**merged, **{name: model for name, model in models.items() if name not in merged}}


def changed(model: ModelSettings, changes: ModelSettings | None) -> ModelSettings:
    """`model` with the keys that `changes` sets."""
    if changes is None:
        return model
    return model.model_copy(update={key: getattr(changes, key) for key in changes.model_fields_set})
