"""The library's own loop, for models that keep what they remember in ways of their own: right, but nothing is reused.

`generate()` runs the forward passes; our sampler chooses each token by masking all others. One sequence after the
other, each in one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Adapter, Drawn, Finish, TokenStream


class Library:
    """The same words as `Batch`."""

    def __init__(
        self,
        model: Any,
        device: torch.device,
        adapters: Adapters,
        end_ids: frozenset[int],
        make_sampler: Callable[[TokenStream], Sampler],
        fail: Callable[[TokenStream, Exception], None],
    ) -> None:
        self._model = model
        self._device = device
        self._adapters = adapters
        self._end_ids = end_ids
        self._make_sampler = make_sampler
        self._fail = fail
        self._waiting: deque[TokenStream] = deque()
        self.running = 0

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    @torch.inference_mode()
    def warm(self) -> None:
        """One token, so that what cannot be computed is known before anybody asks. Raises what the model raises."""
        self._model.generate(
            torch.tensor([[0]], device=self._device), do_sample=False, max_new_tokens=1, pad_token_id=0
        )

    def submit(self, stream: TokenStream) -> None:
        self._waiting.append(stream)

    def uses(self, adapter: Adapter) -> bool:
        return any(stream.sequence.adapter == adapter for stream in self._waiting)

    def forget(self, adapter: Adapter) -> None:
        """Nothing is kept."""

    def step(self) -> None:
        """One sequence from its prompt to its end."""
        self._drop_cancelled()
        if not self._waiting:
            return
        stream = self._waiting.popleft()
        self.running = 1
        try:
            stream.put(self._generate(stream))
        except Exception as error:  # noqa: BLE001 - one bad request must not end the worker
            self._fail(stream, error)
        finally:
            self.running = 0

    def _drop_cancelled(self) -> None:
        for stream in [stream for stream in self._waiting if stream.cancelled.is_set()]:
            self._waiting.remove(stream)
            stream.put(Finish("cancelled"))

    def _generate(self, stream: TokenStream) -> Finish:
        sequence = stream.sequence
        with torch.inference_mode(False):  # peft marks parameters in ways that inference tensors refuse
            self._adapters.use(sequence.adapter)
        ends = frozenset() if sequence.ignore_eos else self._end_ids | sequence.ends
        choice = _Choice(self._make_sampler(stream), ends, stream, self._drop_cancelled)
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
        self, sampler: Sampler, end_ids: frozenset[int], stream: TokenStream, at_each_token: Callable[[], None]
    ) -> None:
        self.reason = ""
        self.generated = 0
        self._at_each_token = at_each_token
        self._sampler = sampler
        self._end_ids = end_ids
        self._stream = stream

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        (drawn,) = self._sampler.draw(scores)
        token = drawn.token if isinstance(drawn, Drawn) else drawn
        self._at_each_token()
        self.generated += 1
        if token in self._end_ids:
            self.reason = "stop"
        else:
            self._stream.put(drawn)
            self.reason = "cancelled" if self._stream.cancelled.is_set() else ""
        only = torch.full_like(scores, -float("inf"))
        only[0, token] = 0
        return only


class _Ended(StoppingCriteria):
    def __init__(self, choice: _Choice) -> None:
        self._choice = choice

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), bool(self._choice.reason), device=input_ids.device)
