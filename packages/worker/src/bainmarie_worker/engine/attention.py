"""Attention for a packed pass: tokens of many sequences in one row, each looking at its own keys and values alone.

transformers calls `packed_attention` where a model's own attention would stand (AttentionInterface, since 4.48). It
finds the pass that is under way in `_now`: models do not hand further arguments on to this place alike. The keys and
values that it is given are those of the new tokens, and it is here that they go into their sequences' memories: what
a model does between its cache and its attention (expanding compressed ones, say) is done by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class _Pass:
    spans: list[Span]
    masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)


_now: _Pass | None = None


@contextmanager
def under_way(spans: list[Span]) -> Iterator[None]:
    """Inside, forward passes of models are packed ones over these spans. One at a time."""
    global _now
    _now = _Pass(spans)
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

    `softcap` and sinks `s_aux` [heads] as Gemma 2 and gpt-oss have them. A position bias is not known here.
    """
    if _now is None:
        raise RuntimeError("packed attention outside of a packed pass")
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention with a position bias")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads, tokens = query.shape[1], query.shape[2]
    whole: torch.Tensor | None = None
    layer: int = module.layer_idx  # type: ignore[assignment]
    for span in _now.spans:
        span.memory.write(layer, key[0, :, span.start : span.end], value[0, :, span.start : span.end])
        total = span.memory.length + span.end - span.start
        start = max(0, span.memory.length + 1 - sliding_window) if sliding_window else 0
        keys, values = span.memory.read(layer, start, total)
        asked = query[0, :, span.start : span.end]
        window = sliding_window if sliding_window and total - start > sliding_window else None
        if softcap is not None or s_aux is not None:
            out = _written_out(asked, keys, values, window, scale, softcap, s_aux)
        else:
            out = _fused(asked, keys, values, window, scale)
        if len(_now.spans) == 1:
            return out.transpose(0, 1)[None], None
        if whole is None:
            whole = out.new_empty(1, tokens, heads, out.shape[-1])
        whole[0, span.start : span.end] = out.transpose(0, 1)
    assert whole is not None
    return whole, None


def _fused(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None, scale: float
) -> torch.Tensor:
    """[heads, tokens, value size] from query [heads, tokens, size], keys and values [key heads, all tokens, size].

    The heads that share keys become rows of one product where there are few tokens, a stride of zero elsewhere.
    """
    heads, tokens, size = query.shape
    shared, total = keys.shape[0], keys.shape[1]
    repeat = heads // shared
    mask = None if tokens == 1 or (total == tokens and window is None) else _mask(query, tokens, total, window)
    if tokens <= _FEW:
        rows = query.reshape(1, shared, repeat * tokens, size)
        if mask is None and tokens > 1:
            mask = _mask(query, tokens, total, None)
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
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """As `_fused`, with caps on the scores (softcap * tanh(score / softcap)) and one more score for each head, which
    takes its share of the softmax and gives no value."""
    heads, tokens, _ = query.shape
    repeat = heads // keys.shape[0]
    scores = query @ keys.repeat_interleave(repeat, 0).transpose(1, 2) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + _mask(query, tokens, keys.shape[1], window)
    if sinks is not None:
        scores = torch.cat((scores, sinks.to(scores.dtype).reshape(-1, 1, 1).expand(-1, tokens, 1)), dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return weights @ values.repeat_interleave(repeat, 0)


def _mask(like: torch.Tensor, tokens: int, total: int, window: int | None) -> torch.Tensor:
    """[tokens, total], 0 where the last `tokens` of `total` tokens may look and -inf elsewhere; made once a pass."""
    assert _now is not None
    made = _now.masks.get((tokens, total, window))
    if made is None:
        allowed = torch.ones(tokens, total, dtype=torch.bool, device=like.device).tril(total - tokens)
        if window is not None:
            allowed = allowed.triu(total - tokens - window + 1)
        made = torch.zeros(tokens, total, dtype=like.dtype, device=like.device).masked_fill(~allowed, -torch.inf)
        _now.masks[(tokens, total, window)] = made
    return made
