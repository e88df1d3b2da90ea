"""From logits to the next tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf

import torch

from bainmarie_worker.engine.sequence import Drawn, Sampling, Token
from bainmarie_worker.errors import RequestError


class Sampler:
    """Draws the tokens of one sequence. Order: bias and penalties, temperature, top_k, min_p and top_p, draw."""

    def __init__(
        self, sampling: Sampling, prompt: SequenceOf[int], device: torch.device, logprobs: int | None = None
    ) -> None:
        self._sampling = sampling
        self._device = device
        self._logprobs = logprobs
        self._generator: torch.Generator | None = None
        if sampling.seed is not None and sampling.temperature > 0:
            self._generator = torch.Generator(device=device)
            self._generator.manual_seed(sampling.seed)
        self._seen: torch.Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.tensor(sorted(set(prompt)), dtype=torch.long, device=device)
        self._counts: dict[int, int] = {}
        self._penal = self._seen is not None or bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._bias = [torch.tensor(column, device=device) for column in zip(*sampling.logit_bias)]

    def draw(self, logits: torch.Tensor, guess: SequenceOf[int] = ()) -> list[Token]:
        """The next tokens, from logits [1 + len(guess), vocabulary] of the last token and the guessed ones.

        One more than the guessed tokens that are drawn at their places: each draw is the one that would have been made
        without the guess. RequestError 500 `no_numbers` where the model has computed none.
        """
        plain = self._sampling.temperature == 0 and not self._penal and not self._bias
        likeliest = _likeliest(logits) if plain else None
        drawn: list[Token] = []
        for place, row in enumerate(logits):
            token = likeliest[place] if likeliest is not None else self.pick(row)
            drawn.append(token if self._logprobs is None else self._told(row, token))
            if place < len(guess) and guess[place] != token:
                break
        return drawn

    def pick(self, logits: torch.Tensor) -> int:
        """The next token's id, from a vector with one logit for each token of the vocabulary."""
        if self._penal or self._bias:
            logits = self._changed(logits.float().clone())
        token = _likeliest(logits[None])[0] if self._sampling.temperature == 0 else self._draw(logits.float())
        if self._penal:
            self._note(token)
        return token

    def _told(self, logits: torch.Tensor, token: int) -> Drawn:
        chances = logits.float().log_softmax(-1)
        values, ids = chances.topk(min(self._logprobs or 0, len(chances)))
        return Drawn(token, float(chances[token]), tuple(zip(ids.tolist(), values.tolist())))

    def _draw(self, logits: torch.Tensor) -> int:
        sampling = self._sampling
        logits = logits / sampling.temperature
        ids: torch.Tensor | None = None
        if 0 < sampling.top_k < logits.shape[-1]:
            logits, ids = logits.topk(sampling.top_k)
        elif sampling.top_p < 1:
            logits, ids = logits.sort(descending=True)
        weights = logits.softmax(-1)
        _check_number(float(weights[0]))  # of numbers that are none, all of them are none
        if sampling.min_p > 0:
            weights = torch.where(weights < sampling.min_p * weights.max(), 0.0, weights)
        if sampling.top_p < 1:
            # The likeliest tokens that together reach top_p of the probability; the first one always stays.
            before = weights.cumsum(-1) - weights
            before[0] = -1.0
            weights = torch.where(before >= sampling.top_p * weights.sum(), 0.0, weights)
        place = int(torch.multinomial(weights, 1, generator=self._generator))
        return place if ids is None else int(ids[place])

    def _changed(self, logits: torch.Tensor) -> torch.Tensor:
        sampling = self._sampling
        if self._seen is not None and len(self._seen):
            chosen = logits[self._seen]
            factor = sampling.repetition_penalty
            logits[self._seen] = torch.where(chosen < 0, chosen * factor, chosen / factor)
        if self._counts and (sampling.presence_penalty or sampling.frequency_penalty):
            ids = torch.tensor(list(self._counts), dtype=torch.long, device=logits.device)
            counts = torch.tensor(list(self._counts.values()), dtype=torch.float32, device=logits.device)
            logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        if self._bias:
            ids, biases = self._bias
            logits[ids] += biases
        return logits

    def _note(self, token: int) -> None:
        if self._seen is not None and token not in self._counts:
            fresh = torch.tensor([token], dtype=torch.long, device=self._device)
            self._seen = torch.unique(torch.cat((self._seen, fresh)))
        self._counts[token] = self._counts.get(token, 0) + 1


def _likeliest(logits: torch.Tensor) -> list[int]:
    """The place of the largest number of each row."""
    most = logits.max(-1)
    for value in most.values.tolist():
        _check_number(value)
    places: list[int] = most.indices.tolist()
    return places


def _check_number(value: float) -> None:
    if math.isnan(value):
        raise RequestError(
            500,
            "the model has computed no numbers (NaN), so no token can be drawn",
            code="no_numbers",
            hint="Load it in bfloat16 or float32, which do not overflow as float16 does. Else its weights are broken.",
        )
