"""Attention over pages, for rows that are given as tensors: what a captured pass reads stands where it stood before."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch.nn import functional as F

from bainmarie_worker.engine.attention import Asked, capped_softmax
from bainmarie_worker.engine.captured.pages import Pool

_MOST_SIZE = 256
"""Numbers of a head, for torch's paged attention."""


@dataclass
class Rows:
    """Implements `Pass`: tokens, each of which looks at the first so many of its own pages.

    With `paged`, by torch's kernel for that (torch.nn.attention.varlen, CUDA); it also takes several tokens of a
    sequence as one. Else each row's pages are put together, which any device can.
    """

    pool: Pool
    slots: torch.Tensor
    """[tokens]: where their keys and values go. This and all below in int64."""
    tables: torch.Tensor
    """[sequences, pages]."""
    lengths: torch.Tensor
    """[sequences]: tokens that its last token looks at, itself among them."""
    starts: torch.Tensor
    """[sequences + 1]: its first token in the pass."""
    longest: int = 1
    """Tokens of a sequence in the pass."""
    paged: bool = False
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def attend(self, asked: Asked) -> torch.Tensor:
        held = self.pool.layers[asked.layer]
        assert held is not None
        for tensor, new in zip(held, (asked.key, asked.value)):
            tensor.flatten(0, 1).index_copy_(0, self.slots, new[0].transpose(0, 1))
        return self._paged(asked, *held) if self.paged else self._gathered(asked, *held)

    def _paged(self, asked: Asked, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        from torch.nn.attention.varlen import varlen_attn

        if not asked.is_plain or keys.shape[-1] != values.shape[-1] or keys.shape[-1] > _MOST_SIZE:
            raise NotImplementedError("torch's paged attention knows no caps, sinks or heads of these sizes")
        starts, lengths, tables = self._short
        out: torch.Tensor = varlen_attn(  # type: ignore[assignment]
            asked.query[0].transpose(0, 1),
            keys,
            values,
            starts,
            starts,  # of keys: not looked at where there are pages
            self.longest,
            self.tables.shape[1] * self.pool.page,
            scale=asked.scale,
            window_size=(asked.window - 1 if asked.window else -1, 0),
            enable_gqa=True,
            seqused_k=lengths,
            block_table=tables,
        )
        return out[None]

    @cached_property
    def _short(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.starts.int(), self.lengths.int(), self.tables.int()

    def _gathered(self, asked: Asked, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The heads that share keys are the rows of one product."""
        rows, _ = self.tables.shape
        shared = keys.shape[2]
        query = asked.query[0].transpose(0, 1).unflatten(1, (shared, -1))
        keys, values = (held[self.tables].flatten(1, 2).transpose(1, 2) for held in (keys, values))
        mask = self._mask(asked)
        if asked.is_plain:
            out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=asked.scale)
        else:
            scores = (query @ keys.transpose(2, 3) * asked.scale).flatten(1, 2).unsqueeze(2)
            weights = capped_softmax(scores, mask, asked).squeeze(2).unflatten(1, (shared, -1))
            out = weights @ values
        return out.reshape(1, rows, -1, out.shape[-1])

    def _mask(self, asked: Asked) -> torch.Tensor:
        """[rows, 1, 1, places], 0 where a row looks and -inf elsewhere; made once a pass."""
        if asked.window not in self._masks:
            places = torch.arange(self.tables.shape[1] * self.pool.page, device=self.tables.device)
            ends = self.lengths[:, None]
            hidden = places >= ends
            if asked.window:
                hidden = hidden | (places < ends - asked.window)
            zeros = asked.query.new_zeros(hidden.shape)
            self._masks[asked.window] = zeros.masked_fill(hidden, -torch.inf)[:, None, None]
        return self._masks[asked.window]
