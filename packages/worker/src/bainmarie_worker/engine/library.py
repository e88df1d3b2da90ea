"""The library's own loop, for models that keep what they remember in ways of their own: right, but nothing is reused.

`generate()` runs the forward passes; our sampler chooses each token by masking all others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Adapter, Finish, Sequence


class Library:
    """The same words as `Stepping`."""

    def __init__(self, model: Any, device: torch.device, end_ids: frozenset[int]) -> None:
        self._model = model
        self._device = device
        self._end_ids = end_ids

    def forget(self, adapter: Adapter) -> None:
        """Nothing is kept."""

    def free(self) -> None:
        """Nothing is kept."""

    def generate(self, sequence: Sequence, accept: Callable[[int], None], cancelled: threading.Event) -> Finish:
        """See `Runner`."""
        choice = _Choice(Sampler(sequence.sampling, sequence.prompt, self._device), self._end_ids, accept, cancelled)
        prompt = torch.tensor([sequence.prompt], device=self._device)
        self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=sequence.max_tokens,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList([_Ended(choice)]),
        )
        return Finish(choice.reason or "length", choice.generated)


class _Choice(LogitsProcessor):
    """Chooses the token, tells it, and leaves generate() no other."""

    def __init__(
        self, sampler: Sampler, end_ids: frozenset[int], accept: Callable[[int], None], cancelled: threading.Event
    ) -> None:
        self.reason = ""
        self.generated = 0
        self._sampler = sampler
        self._end_ids = end_ids
        self._accept = accept
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self._sampler.pick(scores[0])
        self.generated += 1
        if token in self._end_ids:
            self.reason = "stop"
        else:
            self._accept(token)
            self.reason = "cancelled" if self._cancelled.is_set() else ""
        only = torch.full_like(scores, -float("inf"))
        only[0, token] = 0
        return only


class _Ended(StoppingCriteria):
    def __init__(self, choice: _Choice) -> None:
        self._choice = choice

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), bool(self._choice.reason), device=input_ids.device)
