"""Keys and values of all sequences in pages of a few tensors, so that what is captured finds them where they were."""

from __future__ import annotations

import torch

from bainmarie_worker.engine.keys_values import KeysValues
from bainmarie_worker.engine.memory import NoRoom

PAGE = 256
"""Tokens of a page: what torch's paged attention asks for."""
_FIRST = 16
"""Pages at the beginning."""


class Pool:
    """Pages of all layers, [pages, tokens of a page, key heads, size] each. Page 0 takes what no sequence wants.

    It begins small, for models share a device, and moves to larger tensors when it must grow.
    """

    def __init__(self, like: KeysValues, room: int, page: int = PAGE) -> None:
        """Grows to `room` bytes at the most, or two pages where that is less; `like` tells the layers' shapes."""
        self.page = page
        self.moves = 0
        """How often its tensors have moved."""
        made = [layer for layer in like.layers if layer is not None]
        self._page_bytes = sum(part[:, :1].nbytes for layer in made for part in layer) * page
        self._most = max(2, room // self._page_bytes)
        self._pages = min(self._most, _FIRST)
        self.layers = [None if layer is None else (self._made(layer[0]), self._made(layer[1])) for layer in like.layers]
        self._free = list(range(self._pages - 1, 0, -1))
        self._holders = [0] * self._pages

    @property
    def bytes(self) -> int:
        """That sequences can have."""
        return (self._most - 1) * self._page_bytes

    def part(self, page: int) -> float:
        """Bytes: what one of its holders has of a page."""
        return self._page_bytes / self._holders[page]

    def take(self) -> int:
        """A page of zeros: what lies behind a sequence's end is multiplied too, by nothing. NoRoom."""
        if not self._free:
            self._grow()
        page = self._free.pop()
        self._holders[page] = 1
        torch._foreach_zero_(self._at(page))
        return page

    def share(self, page: int) -> None:
        """One more sequence holds it, and only reads it."""
        self._holders[page] += 1

    def shared(self, page: int) -> bool:
        return self._holders[page] > 1

    def own(self, page: int) -> int:
        """A page with the same content that nobody else holds, in exchange for this one. NoRoom."""
        if not self.shared(page):
            return page
        fresh = self.take()
        torch._foreach_copy_(self._at(fresh), self._at(page))
        self.give_back(page)
        return fresh

    def give_back(self, page: int) -> None:
        self._holders[page] -= 1
        if not self._holders[page]:
            self._free.append(page)

    def _made(self, like: torch.Tensor) -> torch.Tensor:
        """From [heads, tokens, size]."""
        return like.new_zeros(self._pages, self.page, like.shape[0], like.shape[2])

    def _at(self, page: int) -> list[torch.Tensor]:
        return [part[page] for layer in self.layers if layer is not None for part in layer]

    def _grow(self) -> None:
        """To twice the pages, one tensor after the other: both sizes of all of them may not fit. NoRoom."""
        if self._pages == self._most:
            raise NoRoom(f"out of memory: all {self._pages - 1} pages of {self.page} tokens are taken")
        pages = min(2 * self._pages, self._most)
        self.moves += 1
        try:
            for number, layer in enumerate(self.layers):
                if layer is not None:
                    self.layers[number] = (self._larger(layer[0], pages), self._larger(layer[1], pages))
                    del layer
        except RuntimeError as error:  # tensors that have grown already are as good as they were
            raise NoRoom(f"out of memory: {error}") from error
        self._free += range(pages - 1, self._pages - 1, -1)
        self._holders += [0] * (pages - self._pages)
        self._pages = pages

    def _larger(self, old: torch.Tensor, pages: int) -> torch.Tensor:
        new = old.new_zeros(pages, *old.shape[1:])
        new[: self._pages] = old[: self._pages]
        return new


class Pages:
    """Implements `Memory`, and what packed attention asks of one. Copies share pages until one of them writes."""

    def __init__(self, pool: Pool) -> None:
        self.length = 0
        """Tokens that are computed. What stands behind them is of no meaning and will be overwritten."""
        self.table: list[int] = []
        self._pool = pool
        self._places: dict[tuple[int, int], torch.Tensor] = {}

    def __del__(self) -> None:
        self._cut(0)

    @property
    def bytes(self) -> int:
        return round(sum(map(self._pool.part, self.table)))

    def reserve(self, tokens: int) -> None:
        """Makes room for `tokens` in all, in pages of its own from the first one that will be written. NoRoom."""
        self._places.clear()
        for place in range(self.length // self._pool.page, len(self.table)):
            self.table[place] = self._pool.own(self.table[place])
        while len(self.table) < self._count(tokens):
            self.table.append(self._pool.take())

    def slot(self, place: int) -> int:
        """Where token `place` stands among all slots of a layer."""
        page, rest = divmod(place, self._pool.page)
        return self.table[page] * self._pool.page + rest

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Puts new keys and values [heads, tokens, size] behind the computed ones; `length` is the caller's to move."""
        held = self._pool.layers[layer]
        assert held is not None
        places = self._slots(self.length, self.length + keys.shape[1], keys.device)
        for tensor, new in zip(held, (keys, values)):
            tensor.flatten(0, 1).index_copy_(0, places, new.transpose(0, 1))

    def read(self, layer: int, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies [heads, end - start, size] of one layer's keys and values."""
        held = self._pool.layers[layer]
        assert held is not None
        places = self._slots(start, end, held[0].device)
        keys, values = (tensor.flatten(0, 1).index_select(0, places).transpose(0, 1) for tensor in held)
        return keys, values

    def nearest(self, length: int) -> int:
        return length

    def crop(self, length: int) -> None:
        """Keeps the first `length` tokens."""
        self.length = length
        self._cut(self._count(length))

    def copy(self, length: int) -> Pages:
        """The first `length` tokens; nothing is copied yet."""
        twin = Pages(self._pool)
        twin.length = length
        twin.table = self.table[: self._count(length)]
        for page in twin.table:
            self._pool.share(page)
        return twin

    def mark(self) -> None:
        """It can be cut anywhere."""

    def _count(self, tokens: int) -> int:
        return -(-tokens // self._pool.page)

    def _cut(self, count: int) -> None:
        while len(self.table) > count:
            self._pool.give_back(self.table.pop())

    def _slots(self, start: int, end: int, device: torch.device) -> torch.Tensor:
        """Of these tokens; made once a pass."""
        if (start, end) not in self._places:
            self._places[start, end] = torch.tensor([self.slot(place) for place in range(start, end)], device=device)
        return self._places[start, end]
