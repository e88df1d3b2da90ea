"""Our own decoding loop: prefill, then one forward pass for each token; the last sequence's cache is used again."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch

from bainmarie_worker.engine.cache import PrefixCache
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Adapter, Finish, Sequence

_PREFILL = 1024
"""Prompt tokens of one forward pass: between two of them a cancelled request is noticed."""


class Stepping:
    """For models whose forward pass takes a `DynamicCache`, which are nearly all."""

    def __init__(self, model: Any, device: torch.device, end_ids: frozenset[int]) -> None:
        self._model = model
        self._device = device
        self._end_ids = end_ids
        self._cache = PrefixCache(model.config)
        self._last_logits = _last_logits_option(model)

    @staticmethod
    def fits(model: Any, transformers_version: str) -> bool:
        """Whether this model of this version keeps all it remembers in a `DynamicCache`."""
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            return False
        if not getattr(model, "_supports_cache_class", True):
            return False
        version = tuple(int(part) for part in transformers_version.split(".")[:2])
        if version < (4, 56) and getattr(model.config, "cache_implementation", None):
            return False  # gemma2 and its kin had caches of their own, and so had recurrent models before version 5
        return version >= (5, 0) or not getattr(model, "_is_stateful", False)

    def forget(self, adapter: Adapter) -> None:
        """Drops what is kept for one adapter."""
        self._cache.drop(adapter)

    def free(self) -> None:
        """Gives back all memory that is kept between sequences."""
        self._cache.clear()

    def generate(self, sequence: Sequence, accept: Callable[[int], None], cancelled: threading.Event) -> Finish:
        """See `Runner`."""
        cached, cache = self._cache.take(sequence.adapter, sequence.prompt)
        sampler = Sampler(sequence.sampling, sequence.prompt, self._device)
        todo = list(sequence.prompt[cached:])
        held = list(sequence.prompt[:cached])  # the tokens whose keys and values the cache holds
        generated = 0
        reason = ""
        while not reason:
            part, todo = todo[:_PREFILL], todo[_PREFILL:]
            logits = self._forward(part, cache)
            held += part
            if not todo:
                token = sampler.pick(logits)
                todo = [token]
                generated += 1
                if token in self._end_ids:
                    reason = "stop"
                else:
                    accept(token)
                    reason = "length" if generated >= sequence.max_tokens else ""
            if not reason and cancelled.is_set():
                reason = "cancelled"
        self._cache.put(sequence.adapter, held, cache)
        return Finish(reason, generated, cached)

    def _forward(self, tokens: list[int], cache: Any) -> torch.Tensor:
        """The logits after the last of `tokens`. Their keys and values join the cache's."""
        output = self._model(
            input_ids=torch.tensor([tokens], device=self._device),
            past_key_values=cache,
            use_cache=True,
            **self._last_logits,
        )
        logits: torch.Tensor = output.logits[0, -1]
        return logits


def _last_logits_option(model: Any) -> dict[str, int]:
    """How this version of this model is told to compute the last position's logits alone, if it can be."""
    known = inspect.signature(model.forward).parameters
    for name in ("logits_to_keep", "num_logits_to_keep"):
        if name in known:
            return {name: 1}
    return {}
