"""The models by name, and which of them share a worker."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.errors import NotFound


@dataclass(frozen=True)
class ModelSpec:
    """One named entry of the configuration, with defaults filled in and paths made absolute."""

    name: str
    engine: str = "transformers"
    """transformers | fake | command"""
    model: str = ""
    """Absolute directory of the base model, or its hub id. Empty for `command`."""
    adapter: str | None = None
    """Absolute directory of a PEFT adapter on `model`."""
    base: str = ""
    """Directory or hub id whose config.json and tokenizer complete a `model` that has none of its own."""
    quantization: str = "none"
    prompt: str = "chat"
    system_prompt: str | None = None
    chat_template: str | None = None
    """The template itself, or the absolute path of a file with it; None is the adapter's or the model's own."""
    environment: str = "auto"
    """`auto` or a name of the configuration's environments; empty for a `command` without one."""
    keep_alive: float | None = 1800.0
    """Seconds a worker stays after its last request; None is for ever, 0 unloads at once."""
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    """How the layers are spread over several accelerators; None puts all on `device`."""
    allow_pickle: bool = False
    trust_remote_code: bool = False
    context: int | None = None
    command: tuple[str, ...] = ()
    health: str = "/health"
    folder: str = ""
    """Where a `command` starts: the configuration file's folder. Empty for other engines."""
    parallel: int | None = None
    """Requests that the worker gets at once for this model; None takes the limit for all."""
    queue: int | None = None
    """Requests that may wait for it; None takes the limit for all."""
    memory: int | None = None
    """Bytes that its worker takes at most, by the user's word; used until it was measured."""
    pinned: bool = False
    """Never evicted for want of memory."""
    preload: bool = False
    """Loaded when the gateway starts."""
    options: tuple[tuple[str, object], ...] = ()
    """Settings of one engine alone."""

    @cached_property
    def worker_key(self) -> str:
        """Models with the same key share a worker: all but name, adapter and chat settings is the same."""
        same = replace(self, name="", adapter=None, prompt="", system_prompt=None, chat_template=None, keep_alive=None)
        same = replace(same, parallel=None, queue=None, preload=False, memory=None, pinned=False)
        if self.engine == "command":
            same = replace(same, name=self.name)
        text = json.dumps(same.__dict__, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Catalog:
    """All models and environments that the configuration names. Only `become` changes it."""

    models: Mapping[str, ModelSpec]
    environments: Mapping[str, EnvironmentSpec] = field(default_factory=dict)
    not_taken_up: str = ""
    """Why the configuration as it is now in its file does not hold: a model that is missed may stand there."""

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self.models.values())

    def get(self, name: str) -> ModelSpec:
        """The model of that name; NotFound names the known ones, the nearest first."""
        if name in self.models:
            return self.models[name]
        known = sorted(self.models)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise NotFound(
            f"there is no model {name!r}",
            hint=f"{hint}Known models: {', '.join(known) or 'none'}.{self._late()}",
            code="model_not_found",
            param="model",
        )

    def become(self, other: Catalog) -> None:
        """From now on it is as `other`: the configuration was read anew."""
        self.models, self.environments = other.models, other.environments
        self.not_taken_up = ""

    def _late(self) -> str:
        return f" The latest edit was not taken up: {self.not_taken_up}" if self.not_taken_up else ""

    def weights_elsewhere(self, spec: ModelSpec) -> tuple[ModelSpec, ...]:
        """The models of other workers that map the same files of weights as the worker of `spec`."""
        mapped = _mapped(spec)
        return tuple(m for m in self if mapped and _mapped(m) == mapped and m.worker_key != spec.worker_key)

    def sharing(self, spec: ModelSpec) -> tuple[ModelSpec, ...]:
        """Every model that the worker of `spec` serves, `spec`'s base first, then by name."""
        same = [m for m in self if m.worker_key == spec.worker_key]
        return tuple(sorted(same, key=lambda m: (m.adapter is not None, m.name)))


def _mapped(spec: ModelSpec) -> tuple[str, str] | None:
    """What two workers with the same weights in memory have in common; None where memory holds a copy of its own."""
    plain = spec.engine == "transformers" and spec.quantization == "none" and spec.device in ("auto", "cpu")
    return (spec.model, spec.dtype) if plain else None
