"""What earlier sequences left behind: their keys and values, to be used again by the next one that begins alike.

A tool loop sends the same growing history again and again; with this only the new part of it is computed.
"""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache

from bainmarie_worker.engine.sequence import Adapter

_KEPT = 4
"""Sequences kept, one for each adapter, the oldest dropped first. Each holds memory of its length."""


class PrefixCache:
    """The last sequence's keys and values for each adapter. They depend on the adapter, so they are never shared."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._kept: dict[Adapter, tuple[list[int], Any]] = {}

    def take(self, adapter: Adapter, prompt: tuple[int, ...]) -> tuple[int, Any]:
        """(how many of the prompt's first tokens need no computing, a cache that holds exactly those).

        At least the last token is always left to compute: its logits are what the answer begins with. The cache is
        gone from here; `put` it back when the sequence has ended well.
        """
        ids, cache = self._kept.pop(adapter, ([], None))
        keep = _common(ids, prompt)
        keep = min(keep, len(prompt) - 1)
        if cache is None or keep == 0:
            return 0, self._fresh()
        if keep < len(ids):
            if not croppable(cache):
                return 0, self._fresh()
            # A negative number means "so many tokens less" in every version; a positive one does not.
            cache.crop(keep - len(ids))
        return keep, cache

    def put(self, adapter: Adapter, ids: list[int], cache: Any) -> None:
        """Keeps a cache that holds exactly `ids`."""
        self._kept[adapter] = (ids, cache)
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def drop(self, adapter: Adapter) -> None:
        """Forgets one adapter's sequence, if there is one."""
        self._kept.pop(adapter, None)

    def clear(self) -> None:
        """Forgets all, to give memory back."""
        self._kept.clear()

    def _fresh(self) -> Any:
        try:
            return DynamicCache(config=self._config)
        except TypeError:  # before 4.56 a cache does not ask for the configuration
            return DynamicCache()


def croppable(cache: Any) -> bool:
    """Whether tokens can be taken off the end: not of recurrent states, nor of windows that have moved on."""
    layers = getattr(cache, "layers", None)
    if layers is None:  # before 4.54: one list of full keys and values
        return type(cache) is DynamicCache
    return all(_layer_croppable(layer) for layer in layers)


def _layer_croppable(layer: Any) -> bool:
    kind = type(layer).__name__
    if kind == "DynamicSlidingWindowLayer":
        return bool(layer.get_seq_length() < layer.sliding_window)
    return kind == "DynamicLayer"


def _common(ids: list[int], prompt: tuple[int, ...]) -> int:
    """Length of the longest common beginning."""
    end = min(len(ids), len(prompt))
    if tuple(ids[:end]) == prompt[:end]:
        return end
    return next(place for place in range(end) if ids[place] != prompt[place])
