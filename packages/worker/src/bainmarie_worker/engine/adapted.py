"""Passes with adapters: one for all sequences where the adapters can be mixed, else one for each adapter."""

from __future__ import annotations

from itertools import groupby

import torch

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.captured.forward import Captured
from bainmarie_worker.engine.fused.forward import Fused
from bainmarie_worker.engine.memory import Computed, Forward, Memory, Part


class Adapted:
    """Implements `Forward` around another one. Parts with one adapter must stand side by side."""

    def __init__(self, forward: Forward, adapters: Adapters) -> None:
        self.path = forward.path
        self.packs = forward.packs
        self.crops = forward.crops
        self.why = forward.why
        self._forward = forward
        self._adapters = adapters
        if isinstance(forward, Fused):
            forward.weights = adapters.weights
        if isinstance(forward, Captured):
            forward.named = adapters.named

    def memory(self) -> Memory:
        return self._forward.memory()

    def run(self, parts: list[Part]) -> list[Computed]:
        groups = [(adapter, list(group)) for adapter, group in groupby(parts, lambda part: part.adapter)]
        if self._adapters.mixed:
            self._adapters.assign([(adapter, sum(len(part.tokens) for part in group)) for adapter, group in groups])
            return self._forward.run(parts)
        return [result for adapter, group in groups for result in self._with(adapter, group)]

    def free(self) -> None:
        self._forward.free()

    def _with(self, adapter: str | None, parts: list[Part]) -> list[Computed]:
        with torch.inference_mode(False):  # peft marks parameters in ways that inference tensors refuse
            self._adapters.use(adapter)
        return self._forward.run(parts)
