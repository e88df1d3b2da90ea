"""Attention for a packed pass: tokens of many sequences in one row, each looking at its own keys and values alone.

transformers calls `packed_attention` where a model's own attention would stand (AttentionInterface, since 4.48). It
finds the pass that is under way in `_now`: models do not hand further arguments on to this place alike. The keys and
values that it is given are those of the new tokens, and it is here that they go into their sequences' memories: what
a model does between its cache and its attention (expanding compressed ones, say) is done by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F
from transformers import Cache

from bainmarie_worker.engine.keys_values import KeysValues

NAME = "bainmarie_packed"
_FEW = 32
"""Up to so many tokens keys are read once for all the heads that share them; beyond it there is enough to compute."""


@dataclass(frozen=True)
class Span:
    """The tokens of one sequence in the row: those from `start` to `end`, behind what `memory` holds."""

    memory: KeysValues
    start: int
    end: int


@dataclass(frozen=True)
class Asked:
    """What one layer asks of attention. Shapes as transformers has them, for the tokens of the pass only."""

    layer: int
    query: torch.Tensor
    """[1, heads, tokens, size]."""
    key: torch.Tensor
    """[1, key heads, tokens, size]."""
    value: torch.Tensor
    """[1, key heads, tokens, value size]."""
    scale: float
    window: int | None
    """A token looks at so many at the most, itself among them."""
    softcap: float | None
    """Scores are softcap * tanh(score / softcap), as Gemma 2 has them."""
    sinks: torch.Tensor | None
    """[heads]: one more score for each head, which takes its share of the softmax and gives no value (gpt-oss)."""

    @property
    def is_plain(self) -> bool:
        """Whether torch's own attention knows all of it."""
        return self.softcap is None and self.sinks is None


class Pass(Protocol):
    """One forward pass, as attention sees it."""

    def attend(self, asked: Asked) -> torch.Tensor:
        """Puts the new keys and values away; the result is [1, tokens, heads, value size]."""


_now: Pass | None = None


@contextmanager
def under_way(work: Pass) -> Iterator[None]:
    """Inside, forward passes of models are this one. One at a time."""
    global _now
    _now = work
    try:
        yield
    finally:
        _now = None


class PackedCache(Cache):
    """A cache for the model's own code, that keeps nothing."""

    def __init__(self) -> None:
        self.layers: list[Any] = []

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """The new keys and values alone; those before them are attention's to find."""
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are given to the model, so nothing depends on this."""
        return 0

    @property
    def is_compileable(self) -> bool:
        return False


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`query` is [1, heads, tokens, size], `key` and `value` [1, key heads, tokens, size]: of the pass's tokens only.
    The result is [1, tokens, heads, value size], as transformers wants it.

    A position bias is not known here.
    """
    if _now is None:
        raise RuntimeError("packed attention outside of a packed pass")
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention with a position bias")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    return _now.attend(Asked(layer, query, key, value, scale, sliding_window or None, softcap, s_aux)), None


class Spans:
    """Implements `Pass`: sequences of any length side by side, each with its memory."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans
        self._masks: dict[tuple[int, int, int | None, torch.device], torch.Tensor] = {}

    def attend(self, asked: Asked) -> torch.Tensor:
        if len(self._spans) == 1:
            return self._of(self._spans[0], asked).transpose(0, 1)[None]
        query = asked.query
        whole = query.new_empty(1, query.shape[2], query.shape[1], asked.value.shape[-1])
        for span in self._spans:
            whole[0, span.start : span.end] = self._of(span, asked).transpose(0, 1)
        return whole

    def _of(self, span: Span, asked: Asked) -> torch.Tensor:
        """[heads, tokens, value size] of one sequence."""
        memory, window = span.memory, asked.window
        new = slice(span.start, span.end)
        memory.write(asked.layer, asked.key[0, :, new], asked.value[0, :, new])
        tokens = span.end - span.start
        total = memory.length + tokens
        start = max(0, memory.length + 1 - window) if window else 0
        keys, values = memory.read(asked.layer, start, total)
        total -= start
        window = window if window and total > window else None
        query = asked.query[0, :, new]
        if not asked.is_plain:
            return _written_out(query, keys, values, self._mask(query, total, window), asked)
        free = tokens == 1 or (total == tokens and window is None)
        mask = None if free and not 1 < tokens <= _FEW else self._mask(query, total, window)
        return _plain(query, keys, values, mask, asked.scale)

    def _mask(self, query: torch.Tensor, total: int, window: int | None) -> torch.Tensor:
        """[tokens, total], 0 where the last ones of `total` tokens may look and -inf elsewhere; made once a pass."""
        tokens = query.shape[1]
        key = (tokens, total, window, query.device)
        if key not in self._masks:
            allowed = torch.ones(tokens, total, dtype=torch.bool, device=query.device).tril(total - tokens)
            if window is not None:
                allowed = allowed.triu(total - tokens - window + 1)
            self._masks[key] = query.new_zeros(tokens, total).masked_fill(~allowed, -torch.inf)
        return self._masks[key]


def _plain(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """[heads, tokens, value size] from query [heads, tokens, size], keys and values [key heads, all tokens, size].

    Without a mask [tokens, all tokens], a lone token looks at all of them, and many, which are all there are, at those
    before them. The heads that share keys become rows of one product where there are few tokens, a stride of zero
    elsewhere.
    """
    heads, tokens, size = query.shape
    shared = keys.shape[0]
    repeat = heads // shared
    if tokens <= _FEW:
        rows = query.reshape(1, shared, repeat * tokens, size)
        repeated = None if mask is None else mask.repeat(repeat, 1)
        out = F.scaled_dot_product_attention(rows, keys[None], values[None], attn_mask=repeated, scale=scale)
    else:
        out = F.scaled_dot_product_attention(
            query.reshape(shared, repeat, tokens, size),
            keys[:, None].expand(-1, repeat, -1, -1),
            values[:, None].expand(-1, repeat, -1, -1),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
        )
    return out.reshape(heads, tokens, out.shape[-1])


def _written_out(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, asked: Asked
) -> torch.Tensor:
    """As `_plain`, with caps on the scores and with sinks."""
    repeat = len(query) // len(keys)
    scores = query @ keys.repeat_interleave(repeat, 0).transpose(1, 2) * asked.scale
    weights = capped_softmax(scores, mask, asked)
    return weights @ values.repeat_interleave(repeat, 0)


def capped_softmax(scores: torch.Tensor, mask: torch.Tensor, asked: Asked) -> torch.Tensor:
    """Weights from scores [..., heads, tokens, all tokens], with a cap on the scores and with sinks."""
    if asked.softcap is not None:
        scores = torch.tanh(scores / asked.softcap) * asked.softcap
    scores = scores + mask
    if asked.sinks is None:
        return scores.softmax(-1, dtype=torch.float32).to(asked.query.dtype)
    sinks = asked.sinks.to(scores.dtype).reshape(-1, 1, 1).expand(*scores.shape[:-1], 1)
    weights = torch.cat((scores, sinks), dim=-1).softmax(-1, dtype=torch.float32)
    return weights[..., :-1].to(asked.query.dtype)
