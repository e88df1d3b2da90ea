"""Passes over few tokens as one launch: on an accelerator, starting hundreds of small kernels takes longer than they.

The model's own code runs with tensors that stand where they stood (`Rows`, `Pool`); the second time it is not run but
repeated. Long prompts go through `Packed`, with the same memories.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate, groupby
from typing import Any

import torch

from bainmarie_worker.engine import probe
from bainmarie_worker.engine.captured.graph import Capture, Compute, Graphs
from bainmarie_worker.engine.captured.inputs import Inputs, Layout
from bainmarie_worker.engine.captured.pages import PAGE, Pages, Pool
from bainmarie_worker.engine.growth import NONE
from bainmarie_worker.engine.keys_values import KeysValues
from bainmarie_worker.engine.memory import Computed, Logits, Part
from bainmarie_worker.engine.packed import Packed

MOST = 64
"""Tokens of a pass that may be captured."""
_WORTH = 6
"""A pass of one shape is captured when it comes up so many times: a capture takes as long as some of them."""
_KEPT = 48
"""Captures."""
_REMEMBERED = 1024
"""Shapes whose passes are counted."""
_GATHERED = 1 << 16
"""Keys of all rows together that may be put together for one layer."""
_TRIED = 64 << 20
"""Bytes of pages for the proof."""

Shape = tuple[tuple[tuple[object, int], ...], Layout]
"""((adapter, tokens) in their order, sizes): passes of one shape are computed by the same kernels."""


class Captured:
    """Implements `Forward`. Made by `captured`, which proves first that it computes what the model computes."""

    path = "captured"
    packs = True
    crops = True
    guesses = True
    why = ""

    def __init__(self, packed: Packed, device: torch.device, capture: Capture, paged: bool, page: int = PAGE) -> None:
        """`paged`: attention by torch's kernel for pages. Before anything else, `make_room`."""
        self.paged = paged
        self.most = MOST
        self.worth = _WORTH
        self.fault = ""
        """Why the latest capture failed."""
        self.named: Callable[[str], object] = lambda adapter: adapter
        """What an adapter's weights are known by: another name when they have moved."""
        self._packed = packed
        self._device = device
        self._capture = capture
        self._page = page
        self._pool: Pool
        self._moves = 0
        self._graphs: OrderedDict[Shape, tuple[Inputs, Compute]] = OrderedDict()
        self._seen: dict[Shape, int] = {}

    @torch.no_grad()
    def make_room(self, room: int) -> int:
        """Gives keys and values so many bytes, after one pass that tells their shapes; memories made before are void.

        The bytes that sequences can have. Raises what the model's code raises.
        """
        self.free()
        part = Part(KeysValues(), [0], 1)
        result = self._packed.run([part])[0]
        if isinstance(result, Exception):
            raise result
        self._pool, self._moves = Pool(part.memory, room, self._page), 0
        return self._pool.bytes

    def memory(self) -> Pages:
        return Pages(self._pool)

    def run(self, parts: list[Part]) -> list[Computed]:
        if not self.paged and self._is_large(parts):
            return self._packed.run(parts)
        try:
            return list(self._pass(parts))
        except Exception as error:  # noqa: BLE001 - handed to the sequences; no memory has moved on
            return [error] * len(parts)

    def free(self) -> None:
        """Captures hold what they compute with; those of before the pool has moved are wrong."""
        self._graphs.clear()
        self._seen.clear()
        self._packed.free()

    def _pass(self, parts: list[Part]) -> list[Logits]:
        for part in parts:
            part.memory.reserve(part.memory.length + len(part.tokens))
        if self._pool.moves != self._moves:
            self._moves = self._pool.moves
            self.free()
        few = sum(len(part.tokens) for part in parts) <= self.most
        logits = self._few(parts) if few else self._many(parts)
        for part in parts:
            part.memory.length += len(part.tokens)
        return logits

    def _is_large(self, parts: list[Part]) -> bool:
        """Whether putting each token's pages together would take more memory than it is worth."""
        tokens = sum(len(part.tokens) for part in parts)
        longest = max(part.memory.length + len(part.tokens) for part in parts)
        return tokens > self.most or _power(tokens) * longest > _GATHERED

    def _many(self, parts: list[Part]) -> list[Logits]:
        """Prompts: each sequence's tokens look together."""
        counts = [len(part.tokens) for part in parts]
        pages = max(len(part.memory.table) for part in parts)
        inputs = Inputs(Layout(sum(counts), len(parts), pages, max(counts)), self._device)
        inputs.fill(parts)
        wanted = [place for part, end in zip(parts, accumulate(counts)) for place in range(end - part.wanted, end)]
        logits = self._computed(inputs, torch.tensor(wanted or [0], device=self._device))
        return list(logits[: len(wanted)].split([part.wanted for part in parts]))

    def _few(self, parts: list[Part]) -> list[Logits]:
        """Each token looks for itself, and all give logits."""
        shape = self._shape(parts)
        kept = self._graphs.get(shape)
        if kept is None:
            inputs = Inputs(shape[1], self._device)
            inputs.fill(parts)
            logits = self._computed(inputs)
            self._keep(shape, inputs)
        else:
            self._graphs.move_to_end(shape)
            inputs, again = kept
            inputs.fill(parts)
            logits = again().clone()
        ends = accumulate(len(part.tokens) for part in parts)
        return [logits[end - part.wanted : end] for part, end in zip(parts, ends)]

    def _computed(self, inputs: Inputs, places: torch.Tensor | None = None) -> torch.Tensor:
        rows = inputs.rows(self._pool, self.paged)
        return self._packed.logits(rows, inputs.tokens, inputs.positions, places)

    def _keep(self, shape: Shape, inputs: Inputs) -> None:
        """Captures a pass that comes up often. One that cannot be is computed as before; the log tells."""
        if len(self._seen) > _REMEMBERED:
            self._seen = dict.fromkeys(self._graphs, self.worth)
        self._seen[shape] = self._seen.get(shape, 0) + 1
        if self._seen[shape] != self.worth:
            return
        try:
            again = self._capture(lambda: self._computed(inputs))
        except Exception as error:  # noqa: BLE001 - whatever it was, the pass itself has been computed
            self.fault = f"{type(error).__name__}: {error}"
            sys.stderr.write(f"a pass of {shape[1].rows} rows is not captured: {self.fault}\n")
            return
        self._graphs[shape] = (inputs, again)
        if len(self._graphs) > _KEPT:
            old, _ = self._graphs.popitem(last=False)
            del self._seen[old]

    def _shape(self, parts: list[Part]) -> Shape:
        """Rows without adapters may be more than there are tokens: so there are few shapes."""
        adapters = tuple(
            (adapter and self.named(adapter), sum(len(part.tokens) for part in group))
            for adapter, group in groupby(parts, lambda part: part.adapter)
        )
        rows = sum(count for _, count in adapters)
        if all(adapter is None for adapter, _ in adapters):
            adapters, rows = (), _power(rows)
        return adapters, Layout(rows, rows, _power(max(len(part.memory.table) for part in parts)))


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def captured(
    model: Any,
    packed: Packed,
    device: torch.device,
    reference: probe.Reference,
    capture: Capture | None = None,
    page: int = PAGE,
) -> Captured | str:
    """The way of a CUDA device, or why this model cannot go it. `reference` is what the model itself computed.

    Attention by torch's kernel for pages where that computes the same, else by what any device has.
    """
    if packed.growth is not NONE:
        return "its rotary positions depend on how long a sequence is"
    if len({weights.device for weights in model.parameters()}) > 1:
        return "its layers are on several devices"
    fault = ""
    for paged in (True, False):
        forward = Captured(packed, device, capture or Graphs(device).capture, paged, page)
        fault = _fault(forward, reference, model.dtype)
        if not fault:
            return forward
    return fault


def _fault(forward: Captured, reference: probe.Reference, dtype: torch.dtype) -> str:
    """What is wrong with it: as long prompts are computed, as few tokens are, as they are captured, and repeated."""
    forward.make_room(_TRIED)
    for forward.most, forward.worth in ((0, 1), (MOST, 1), (MOST, 1)):
        fault = probe.fault(forward, reference, dtype) or forward.fault
        if fault:
            return fault
    forward.free()
    forward.worth = _WORTH
    return ""
