"""Rotary positions that depend on how long a sequence is (longrope, dynamic NTK), in passes that hold parts of several.

The model's own code looks at the largest position of a pass. So it is asked for the tokens of each length by itself,
with the last position of that length among them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bainmarie_worker.engine.growth import NONE, Growth
from bainmarie_worker.engine.memory import Part

_LONG = "longrope"
_ORIGINAL = "original_max_position_embeddings"
_ODD = "its rotary positions depend on how long a sequence is"

_rows: dict[int, list[int]] | None = None
"""Of the pass that is under way: rows by the length that decides over them; 0 for those that are not long."""


@contextmanager
def under_way(growth: Growth, parts: list[Part]) -> Iterator[None]:
    """Inside, forward passes of models are one over these parts, in one row. One at a time."""
    global _rows
    if growth is NONE:
        yield
        return
    found: dict[int, list[int]] = {}
    row = 0
    for part in parts:
        for length in range(part.memory.length + 1, part.memory.length + len(part.tokens) + 1):
            length = max(length, part.reach)
            side = growth.side(length)
            found.setdefault(length if side and growth.each else side * (growth.most + 1), []).append(row)
            row += 1
    _rows = found
    try:
        yield
    finally:
        _rows = None


def growth_of(model: Any) -> Growth | str:
    """What the length of a sequence changes, or why that is not known. Inside of `under_way` the model's rotary
    positions are then those of each row's sequence."""
    text = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    told = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    parts = [part for part in [told, *told.values()] if isinstance(part, dict)]
    kinds = {str(part.get("rope_type") or part.get("type") or "") for part in parts}
    steady = any(getattr(module, "rope_type", "") == "ntk_alpha" for module in model.modules())  # HunYuan's "dynamic"
    if steady or not kinds & {"dynamic", _LONG, "su"}:
        return NONE
    found = [module for module in model.modules() if _kinds(module)]
    growths = {_growth(module, kind, parts) for module in found for kind in _kinds(module)}
    if len(growths) != 1 or not all(hasattr(module, "original_inv_freq") for module in found):
        return f"{_ODD}, in a way of their own"
    (growth,) = growths
    drops = _drops(model)
    if drops not in (0, growth.most):
        return f"{_ODD}: of {growth.most} tokens, or {drops}"
    for module in found:
        if not isinstance(module.forward, _Turned):
            module.forward = _Turned(module)
    return Growth(growth.most, growth.each, anew=bool(drops))


def _kinds(module: Any) -> set[str]:
    """Those of a module that makes rotary positions, if they depend on the length."""
    told = getattr(module, "rope_type", "")
    kinds = set(told.values()) if isinstance(told, dict) else {told}
    return {kind for kind in kinds if isinstance(kind, str) and ("dynamic" in kind or kind == _LONG)}


def _growth(module: Any, kind: str, parts: list[dict[str, Any]]) -> Growth:
    if kind != _LONG:
        return Growth(module.original_max_seq_len, each=True)
    config = module.config
    named = [part[_ORIGINAL] for part in parts if part.get("rope_type") == _LONG and part.get(_ORIGINAL)]
    return Growth(named[0] if named else getattr(config, _ORIGINAL, None) or config.max_position_embeddings)


def _drops(model: Any) -> int:
    """After how many tokens generate() begins anew, which the code of some models has it do; 0 for never."""
    from transformers import GenerationMixin

    own: Any = getattr(type(model), "prepare_inputs_for_generation", None)
    if own is None or own is getattr(GenerationMixin, "prepare_inputs_for_generation", None):
        return 0
    code = inspect.unwrap(own).__code__
    return int(getattr(model.config, _ORIGINAL, 0)) if _ORIGINAL in code.co_names else 0


class _Turned:
    """The forward of one module that makes cosines and sines."""

    def __init__(self, module: Any) -> None:
        self._own = module.forward
        self._config = module.config
        self._fresh = self._copied(module)

    def __call__(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if _rows is None:
            return self._own(x, position_ids, *args, **kwargs)
        if position_ids.shape[-1] != sum(map(len, _rows.values())):
            raise RuntimeError(f"rotary positions for {position_ids.shape[-1]} tokens of a pass that has others")
        made = [self._of(length, x, position_ids[..., rows], args, kwargs) for length, rows in _rows.items()]
        if len(made) == 1:
            return made[0]
        order = torch.tensor([row for rows in _rows.values() for row in rows], device=position_ids.device).argsort()
        return tuple(torch.cat(tables, 1)[:, order] for tables in zip(*made))

    def _of(self, length: int, x: torch.Tensor, places: torch.Tensor, args: Any, kwargs: Any) -> Any:
        """Cosines and sines of these positions in a sequence of that length. By a copy that has computed nothing: the
        code remembers the longest it has seen."""
        module = self._copied(self._fresh)
        if not length:
            return module(x, places, *args, **kwargs)
        places = torch.cat([places, places.new_full((*places.shape[:-1], 1), length - 1)], -1)
        return tuple(table[:, :-1] for table in module(x, places, *args, **kwargs))

    def _copied(self, module: Any) -> Any:
        return copy.deepcopy(module, {id(self._config): self._config})
