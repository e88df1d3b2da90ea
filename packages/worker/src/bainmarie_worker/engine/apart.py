"""Each sequence in a pass of its own, with the cache class that the model's own code needs.

For models with recurrent or other states, whose tokens cannot stand in one row with those of other sequences.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache

from bainmarie_worker.engine import probe, rotary
from bainmarie_worker.engine.growth import NONE, Growth
from bainmarie_worker.engine.marks import Marks
from bainmarie_worker.engine.memory import Computed, Logits, Part
from bainmarie_worker.engine.rotary import growth_of
from bainmarie_worker.packages import version_of

_NAMES = ("past_key_values", "cache_params")
"""What transformers' models call their cache."""


class Apart:
    """Implements `Forward`."""

    path = "apart"
    packs = False
    crops = False
    guesses = False

    def __init__(
        self, model: Any, device: torch.device, why: str, made_by_model: bool = False, growth: Growth = NONE
    ) -> None:
        """`made_by_model`: the first pass is given no cache, and the one that the model's code makes is kept."""
        self.why = why
        self.growth = growth
        self._model = model
        self._device = device
        self._made_by_model = made_by_model
        known = inspect.signature(model.forward).parameters
        self._keep = next((name for name in ("logits_to_keep", "num_logits_to_keep") if name in known), None)
        self._name = _cache_name(model)

    def memory(self) -> OwnCache:
        return OwnCache(None if self._made_by_model else self._fresh())

    def run(self, parts: list[Part]) -> list[Computed]:
        return [self._one(part) for part in parts]

    def free(self) -> None:
        """Nothing is kept."""

    def _one(self, part: Part) -> Computed:
        try:
            tokens = torch.tensor([part.tokens], device=self._device)
            with rotary.under_way(self.growth, [part]):
                output = self._model(input_ids=tokens, use_cache=True, **self._options(part))
            part.memory.cache = output[self._name]
        except Exception as error:  # noqa: BLE001 - handed to the sequence it belongs to
            return error
        part.memory.length += len(part.tokens)
        logits: Logits = output.logits[0]
        return logits[len(logits) - part.wanted :]

    def _options(self, part: Part) -> dict[str, Any]:
        """What else the pass is told, of what this model's forward takes."""
        options = {}
        if part.memory.cache is not None:
            options[self._name] = part.memory.cache
        if self._keep:
            options[self._keep] = max(part.wanted, 1)
        return options

    def _fresh(self) -> Any:
        try:
            return DynamicCache(config=self._model.config)
        except TypeError:  # before 4.56 a cache does not ask for the configuration
            return DynamicCache()


def apart(model: Any, device: torch.device, reference: probe.Reference, why: str) -> Apart | str:
    """This way, or `why` with the reason against this way too. `why` tells what is wrong with the better one."""
    unfit, growth = _unfit(model), growth_of(model)
    if isinstance(growth, str):
        return why if growth in why else f"{why}; {growth}"
    if unfit:
        return f"{why}; with a cache {unfit}"
    faults = []
    for made_by_model in (False, True):
        forward = Apart(model, device, why, made_by_model, growth)
        fault = probe.fault(forward, reference, model.dtype)
        if not fault:
            return forward
        faults.append(fault)
    return f"{why}; with a cache {faults[0]}" + (f", with its own {faults[1]}" if faults[1] != faults[0] else "")


def _cache_name(model: Any) -> str:
    """Under which name its forward pass takes and gives its cache; empty where it takes none."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in _NAMES if name in known), "")


def _unfit(model: Any) -> str:
    """What is known to be wrong before anything is computed: not all that it remembers is in a `DynamicCache`."""
    if not _cache_name(model):
        return "its forward pass takes none"
    if not getattr(model, "_supports_cache_class", True):
        return "of the class DynamicCache its code does nothing"
    version = version_of("transformers")
    if version < (4, 56) and getattr(model.config, "cache_implementation", None):
        return "of another class is needed"  # gemma2 and its kin had them, and so had recurrent models before version 5
    if version < (5, 0) and getattr(model, "_is_stateful", False):
        return "of another class is needed"
    return ""


class OwnCache:
    """The cache of one sequence; None before the first pass of a model that makes its own. Implements `Memory`."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.length = 0
        self._marks: Marks[Any] = Marks()

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in _tensors([self.cache, self._marks.states]))

    def nearest(self, length: int) -> int:
        """Any length as long as every layer holds all tokens; else one that was marked."""
        if length >= self.length or croppable(self.cache):
            return min(length, self.length)
        return self._marks.nearest(length)

    def crop(self, length: int) -> None:
        if length == self.length:
            return
        if croppable(self.cache):
            # A negative number means "so many tokens less" in every version; a positive one does not.
            self.cache.crop(length - self.length)
        else:
            _restore(self.cache, self._marks.at(length), length)
        self.length = length
        self._marks = self._marks.until(length)

    def copy(self, length: int) -> OwnCache:
        twin = OwnCache(copy.deepcopy(self.cache))
        twin.length = self.length
        twin._marks = self._marks.until(length)
        twin.crop(length)
        return twin

    def mark(self) -> None:
        if hasattr(self.cache, "layers") or not croppable(self.cache):
            self._marks.keep(self.length, _saved(self.cache))


def croppable(cache: Any) -> bool:
    """Whether tokens can be taken off the end: not of recurrent states, nor of windows that have moved on, nor before
    4.42, where caches do not know how."""
    if getattr(type(cache), "is_croppable", True) is False or not hasattr(cache, "crop"):
        return False
    layers = getattr(cache, "layers", None)
    if type(cache) is not DynamicCache:  # a subclass has more than its layers
        return False
    return layers is None or all(_layer_croppable(layer) for layer in layers)  # None before 4.54: full keys and values


def _layer_croppable(layer: Any) -> bool:
    kind = type(layer).__name__
    if kind == "DynamicSlidingWindowLayer":
        return bool(layer.get_seq_length() < layer.sliding_window)
    return kind == "DynamicLayer"


def _saved(cache: Any) -> list[dict[str, Any]]:
    """What is needed, beside its keys and values, to make of it later what it is now."""
    return copy.deepcopy([_passing(part) for part in _parts(cache)])


def _restore(cache: Any, saved: list[dict[str, Any]], length: int) -> None:
    """Makes it what it was at that length."""
    for part, held in zip(_parts(cache), copy.deepcopy(saved)):
        vars(part).update(held)
        if _keeps_all(part) and part.keys is not None:
            part.keys, part.values = part.keys[..., :length, :], part.values[..., :length, :]


def _parts(cache: Any) -> list[Any]:
    return [cache, *(getattr(cache, "layers", None) or [])]


def _passing(part: Any) -> dict[str, Any]:
    """What of a cache or of one of its layers is another after each token. Of full attention it is not keys and
    values."""
    kept = ("layers", "keys", "values") if _keeps_all(part) else ("layers",)
    return {name: value for name, value in vars(part).items() if name not in kept}


def _keeps_all(part: Any) -> bool:
    return type(part).__name__ in ("DynamicLayer", "LinearAttentionAndFullAttentionLayer")


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
