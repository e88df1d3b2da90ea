"""Passes with adapters: one for all sequences where the adapters can be mixed, else one for each adapter.

Sequences that are independent of their company share no pass with others: that would be made by other code for all.
"""

from __future__ import annotations

from itertools import groupby

import torch

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.captured.forward import Captured
from bainmarie_worker.engine.fused.forward import Fused
from bainmarie_worker.engine.growth import growth
from bainmarie_worker.engine.memory import Computed, Forward, Memory, Part, independent
from bainmarie_worker.engine.sequence import Adapter


class Adapted:
    """Implements `Forward` and `Independent` around another one. Parts with one adapter must stand side by side."""

    def __init__(self, forward: Forward, adapters: Adapters) -> None:
        self.path = forward.path
        self.packs = forward.packs
        self.crops = forward.crops
        self.guesses = forward.guesses
        self.why = forward.why
        self.growth = growth(forward)
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
        if not self._adapters.mixed:
            return [result for adapter, group in groups for result in self._with(adapter, group)]
        passes = groupby(groups, lambda pair: self.independent(pair[0]))
        return [result for _, sharing in passes for result in self._mixed(list(sharing))]

    def independent(self, adapter: Adapter) -> bool:
        return independent(self._forward, adapter)

    def applies(self, adapter: Adapter) -> bool:
        """Whether the model can be computed with a loaded adapter."""
        return not isinstance(self._forward, Fused) or self._forward.applies(adapter)

    def free(self) -> None:
        self._forward.free()

    def _mixed(self, groups: list[tuple[Adapter, list[Part]]]) -> list[Computed]:
        """One pass."""
        self._adapters.assign(
            [
                (adapter, sum(len(part.tokens) for part in group), sum(part.wanted for part in group))
                for adapter, group in groups
            ]
        )
        return self._forward.run([part for _, group in groups for part in group])

    def _with(self, adapter: Adapter, parts: list[Part]) -> list[Computed]:
        with torch.inference_mode(False):  # peft marks parameters in ways that inference tensors refuse
            self._adapters.use(adapter)
        return self._forward.run(parts)
