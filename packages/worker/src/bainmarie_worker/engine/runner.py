"""A transformers model at work: prefill, then one forward pass for each token, for one sequence at a time."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.cache import PrefixCache
from bainmarie_worker.engine.engine import Report, Tokenizer
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Finish, Sequence
from bainmarie_worker.errors import RequestError
from bainmarie_worker.loading import Loaded, is_out_of_memory

_PREFILL = 1024
"""Prompt tokens of one forward pass: between two of them a cancelled request is noticed."""


class TransformersRunner:
    """Implements `Runner`. Made and used on the engine's thread only."""

    def __init__(self, loaded: Loaded) -> None:
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.context = loaded.context
        self.defaults = loaded.defaults
        self.info = loaded.info
        self._model = loaded.model
        self._device: torch.device = loaded.device
        self._end_ids = loaded.end_ids
        self._adapters = Adapters(loaded.model)
        self._cache = PrefixCache(loaded.model.config)
        self._last_logits = _last_logits_option(loaded.model)

    def generate(self, sequence: Sequence, accept: Callable[[int], None], cancelled: threading.Event) -> Finish:
        """See `Runner`. RequestError 507 `out_of_memory` when the sequence does not fit; all caches are given back."""
        try:
            with torch.inference_mode():
                self._adapters.use(sequence.adapter)
                return self._generate(sequence, accept, cancelled)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._cache.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        size = len(sequence.prompt) + sequence.max_tokens
        raise RequestError(
            507,
            f"out of memory on {self._device} at {len(sequence.prompt)} prompt tokens and up to "
            f"{sequence.max_tokens} to generate",
            code="out_of_memory",
            hint=f"Ask for less than {size} tokens together, or load the model with quantization.",
        )

    def load_adapter(self, path: str, report: Report) -> None:
        self._adapters.load(path, report)

    def unload_adapter(self, path: str) -> None:
        self._cache.drop(path)
        self._adapters.unload(path)

    def _generate(self, sequence: Sequence, accept: Callable[[int], None], cancelled: threading.Event) -> Finish:
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
