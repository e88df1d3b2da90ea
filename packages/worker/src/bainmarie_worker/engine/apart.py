"""Each sequence in a pass of its own, with the cache class that the model's own code needs.

For models with recurrent or other states, whose tokens cannot stand in one row with those of other sequences.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import DynamicCache

from bainmarie_worker.engine import probe
from bainmarie_worker.engine.memory import Computed, Logits, Part


class Apart:
    """Implements `Forward`."""

    path = "apart"
    packs = False
    crops = False

    def __init__(self, model: Any, device: torch.device, why: str) -> None:
        self.why = why
        self._model = model
        self._device = device
        known = inspect.signature(model.forward).parameters
        self._keep = next((name for name in ("logits_to_keep", "num_logits_to_keep") if name in known), None)

    def memory(self) -> OwnCache:
        return OwnCache(self._fresh())

    def run(self, parts: list[Part]) -> list[Computed]:
        return [self._one(part) for part in parts]

    def free(self) -> None:
        """Nothing is kept."""

    def _one(self, part: Part) -> Computed:
        try:
            output = self._model(
                input_ids=torch.tensor([part.tokens], device=self._device),
                past_key_values=part.memory.cache,
                use_cache=True,
                **({self._keep: max(part.wanted, 1)} if self._keep else {}),
            )
        except Exception as error:  # noqa: BLE001 - handed to the sequence it belongs to
            return error
        part.memory.length += len(part.tokens)
        logits: Logits = output.logits[0]
        return logits[len(logits) - part.wanted :]

    def _fresh(self) -> Any:
        try:
            return DynamicCache(config=self._model.config)
        except TypeError:  # before 4.56 a cache does not ask for the configuration
            return DynamicCache()


def apart(model: Any, device: torch.device, reference: probe.Reference, why: str) -> Apart | str:
    """This way, or `why` with the reason against this way too. `why` tells what is wrong with the better one."""
    fault = _unfit(model)
    forward = Apart(model, device, why)
    fault = fault or probe.fault(forward, reference, model.dtype)
    return f"{why}; with a cache {fault}" if fault else forward


def _unfit(model: Any) -> str:
    """What is known to be wrong before anything is computed: not all that it remembers is in a `DynamicCache`."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return "its forward pass takes none"
    if not getattr(model, "_supports_cache_class", True):
        return "of the class DynamicCache its code does nothing"
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version < (4, 56) and getattr(model.config, "cache_implementation", None):
        return "of another class is needed"  # gemma2 and its kin had them, and so had recurrent models before version 5
    if version < (5, 0) and getattr(model, "_is_stateful", False):
        return "of another class is needed"
    return ""


class OwnCache:
    """A `DynamicCache` of one sequence. Implements `Memory`."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.length = 0

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in _tensors(self.cache))

    def crop(self, length: int) -> bool:
        """Only while every layer holds all tokens: not with recurrent states, nor with windows that have moved on."""
        if length == self.length:
            return True
        if not croppable(self.cache):
            return False
        # A negative number means "so many tokens less" in every version; a positive one does not.
        self.cache.crop(length - self.length)
        self.length = length
        return True

    def copy(self, length: int) -> OwnCache | None:
        if length != self.length and not croppable(self.cache):
            return None
        twin = OwnCache(copy.deepcopy(self.cache))
        twin.length = self.length
        return twin if twin.crop(length) else None


def croppable(cache: Any) -> bool:
    """Whether tokens can be taken off the end: not of recurrent states, nor of windows that have moved on."""
    layers = getattr(cache, "layers", None)
    if layers is None:  # before 4.54: one list of full keys and values
        return type(cache) is DynamicCache
    return all(_layer_croppable(layer) for layer in layers)


def _layer_croppable(layer: Any) -> bool:
    kind = type(layer).__name__
    if kind == "DynamicSlidingWindowLayer":
        return bool(layer.get_seq_length() < layer.sliding_window)
    return kind == "DynamicLayer"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of a cache, of its layers, and in lists and dictionaries of theirs."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif type(value).__module__.startswith("transformers") and hasattr(value, "__dict__"):
        yield from _tensors(vars(value))
