"""The numbers that a pass reads, in one tensor that stays where it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bainmarie_worker.engine.captured.pages import Pool
from bainmarie_worker.engine.captured.rows import Rows
from bainmarie_worker.engine.memory import Part


@dataclass(frozen=True)
class Layout:
    """The sizes of a pass."""

    rows: int
    """Tokens, and those that only fill up."""
    sequences: int
    """As many as rows where each token looks for itself."""
    pages: int
    """Of the longest sequence."""
    longest: int = 1
    """Tokens of one sequence."""


class Inputs:
    """`fill` says what the next pass computes, `rows` gives its tensors to whoever computes it, or captures that."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        rows, sequences, pages = layout.rows, layout.sequences, layout.pages
        sizes = [rows, rows, rows, sequences, sequences + 1, sequences * pages]
        self._all = torch.zeros(sum(sizes), dtype=torch.int64, device=device)
        self.tokens, self.positions, self._slots, self._lengths, self._starts, tables = self._all.split(sizes)
        self._tables = tables.view(sequences, pages)

    def fill(self, parts: list[Part]) -> None:
        """Memories have room for the parts' tokens."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        looks: list[tuple[int, list[int]]] = []
        starts: list[int] = []
        for part in parts:
            held, table = part.memory.length, part.memory.table
            there = range(held, held + len(part.tokens))
            if self.layout.sequences == self.layout.rows:
                starts += range(len(tokens), len(tokens) + len(there))
                looks += [(place + 1, table) for place in there]
            else:
                starts.append(len(tokens))
                looks.append((there.stop, table))
            tokens += part.tokens
            positions += there
            slots += map(part.memory.slot, there)
        layout = self.layout
        spare = layout.rows - len(tokens)
        starts += range(len(tokens), layout.rows + 1)
        looks += [(1, [])] * (layout.sequences - len(looks))
        nothing = [0] * max(spare, layout.pages)
        numbers = [*tokens, *nothing[:spare], *positions, *nothing[:spare], *slots, *nothing[:spare]]
        numbers += [length for length, _ in looks]
        numbers += starts
        for _, table in looks:
            numbers += table[: layout.pages]
            numbers += nothing[: layout.pages - len(table)]
        self._all.copy_(torch.tensor(numbers))

    def rows(self, pool: Pool, paged: bool) -> Rows:
        return Rows(pool, self._slots, self._tables, self._lengths, self._starts, self.layout.longest, paged)
