"""Does a recurrent model go on rightly from a saved state? Asked of the model itself, not of its name.

Some architectures take up their state only when one token follows it: several at once (a long prompt in parts, or the
next turn of a conversation) would be computed as if nothing had come before. Others cannot use the common cache.
"""

from __future__ import annotations

import inspect
from typing import Any

_FIRST, _THEN = 24, 5
_MOST = 0.1
"""Relative error of the logits: rounding in 16 bits makes a tenth of it, a forgotten state several times as much."""


def continuation_fault(model: Any, device: Any) -> str:
    """Why such a model must run through generate() alone; empty where a saved state can be continued.

    Models without a recurrent state, and those that take no `DynamicCache` anyway, are not asked.
    """
    if not getattr(model, "_is_stateful", False):
        return ""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return ""
    import torch

    try:
        with torch.inference_mode():
            off = _error(model, torch.arange(3, 3 + _FIRST + _THEN, device=device)[None] % model.config.vocab_size)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0]
        return f"{type(model).__name__} cannot use the common cache: {type(error).__name__}: {first}"
    if off < _MOST:
        return ""
    return f"{type(model).__name__} does not continue a saved state with several tokens at once (error {off:.2f})"


def _error(model: Any, ids: Any) -> float:
    """How far the last logits are off when the tokens come in two parts."""
    from transformers import DynamicCache

    whole = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:, :_FIRST], past_key_values=cache, use_cache=True)
    parts = model(input_ids=ids[:, _FIRST:], past_key_values=cache, use_cache=True).logits[0, -1].float()
    return float((parts - whole).norm() / whole.norm())
