"""Passes through decoder.c; those that it cannot make, with an adapter of an unusual kind, go through the model's own
code, if that packs them."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable
from typing import Any

import torch

from bainmarie_worker.engine import probe
from bainmarie_worker.engine.fused.angles import Angles
from bainmarie_worker.engine.fused.changes import Changes
from bainmarie_worker.engine.fused.kernel import NoKernel, kernel
from bainmarie_worker.engine.fused.layout import Fields, Unknown
from bainmarie_worker.engine.fused.memory import BlockAndState, OneBlock
from bainmarie_worker.engine.fused.structure import Structure
from bainmarie_worker.engine.lora import Weights
from bainmarie_worker.engine.memory import Computed, Part
from bainmarie_worker.engine.packed import Packed
from bainmarie_worker.engine.sequence import Adapter
from bainmarie_worker.errors import RequestError

HINT = "Load the base with the option `path: apart`, or merge the adapter into its base."


class _Sequence(Fields):
    _fields_ = (
        ("block", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("state", "changes", "repeated", "traces")),
        *((name, ctypes.c_int64) for name in ("repeats", "guesses")),
    )


class _Pass(Fields):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "wanted", "threads")),
        *((name, ctypes.c_void_p) for name in ("tokens", "positions", "owners", "places", "sequences")),
        *((name, ctypes.c_void_p) for name in ("cosines", "sines", "logits")),
        *((name, ctypes.c_int64) for name in ("most_rank", "angles")),
    )


class Fused:
    """Implements `Forward` and `Independent`.

    Made by `fused`, which proves first that it computes what the model computes.
    """

    path = "fused"
    packs = True
    guesses = True
    why = ""

    def __init__(self, model: Any, other: Packed | None) -> None:
        """`other` makes the passes that this cannot make, with the same memories; a recurrent model has no such way.
        Unknown, NoKernel."""
        self._structure = Structure(model)
        if other is None and not self._structure.state:
            raise Unknown("nothing else packs its passes, of which compiled code cannot make all")
        self._decoder = self._structure.decoder
        self._other = other
        self.crops = not self._structure.state
        self._angles = Angles(self._structure.rotaries)
        self._call = kernel().bainmarie_forward
        self.weights: Callable[[str], Weights | None] = lambda adapter: None
        """The layers that an adapter changes and how; None where it is none of the plain kind."""
        self._changes: dict[str, tuple[Weights, Changes | None]] = {}

    def of_whole(self, model: Any) -> Fused | Packed | None:
        """The same for the whole of a model whose first layers were tried; or, where a later one is another, the way
        that this stands on, if any."""
        try:
            return Fused(model, self._other)
        except Unknown as error:
            if self._other is not None:
                self._other.why = f"not fused: {error}"
            return self._other

    def memory(self) -> OneBlock:
        kept, dtype, state = self._structure.kept, self._structure.dtype, self._structure.state
        return BlockAndState(kept, dtype, torch.zeros(state)) if state else OneBlock(kept, dtype)

    def run(self, parts: list[Part]) -> list[Computed]:
        if not all(self.independent(part.adapter) for part in parts):
            return self._other.run(parts) if self._other else [_refused()] * len(parts)
        try:
            return list(self._pass(parts, [self._changed(part.adapter) for part in parts]))
        except Exception as error:  # noqa: BLE001 - handed to the sequences; no memory has moved on
            return [error] * len(parts)

    def independent(self, adapter: Adapter) -> bool:
        """But for adapters that only the model's own code can apply."""
        return adapter is None or self._changed(adapter) is not None

    def applies(self, adapter: Adapter) -> bool:
        """Whether passes with this adapter can be made at all."""
        return self._other is not None or self.independent(adapter)

    def free(self) -> None:
        if self._other is not None:
            self._other.free()

    def _changed(self, adapter: Adapter) -> Changes | None:
        """What an adapter does; None for no adapter, and for one that only the model's own code can apply."""
        weights = None if adapter is None else self.weights(adapter)
        if adapter is None or weights is None:
            return None
        known = self._changes.get(adapter)
        if known is None or known[0] is not weights:
            try:
                made = Changes(self._structure, weights)
            except Unknown:
                made = None
            self._changes = {path: kept for path, kept in self._changes.items() if self.weights(path) is kept[0]}
            known = self._changes[adapter] = (weights, made)
        return known[1]

    def _pass(self, parts: list[Part], changes: list[Changes | None]) -> list[torch.Tensor]:
        tokens, positions, owners, places = array("i"), array("i"), array("i"), array("i")
        sequences = (_Sequence * len(parts))()
        traces = [torch.empty(part.guessed, self._structure.trace) for part in parts]
        replaced = self._structure.replaced
        for number, (part, change) in enumerate(zip(parts, changes)):
            memory, count = part.memory, len(part.tokens)
            memory.reserve(memory.length + count)
            sequences[number] = _Sequence(
                block=memory.block.data_ptr(),
                capacity=memory.capacity,
                state=memory.state.data_ptr(),
                changes=change and change.address,
                repeated=memory.traces.data_ptr(),
                traces=traces[number].data_ptr(),
                repeats=len(memory.traces),
                guesses=part.guessed,
            )
            tokens.extend([replaced.get(token, token) for token in part.tokens] if replaced else part.tokens)
            positions.extend(range(memory.length, memory.length + count))
            owners.extend([number] * count)
            places.extend(range(len(tokens) - part.wanted, len(tokens)))
        if not 0 <= min(tokens) <= max(tokens) < self._structure.tokens:
            raise IndexError(f"token {max(tokens)} is not among the {self._structure.tokens} that have embeddings")
        self._angles.reach(max(positions) + 1)
        logits = torch.empty(len(places), self._structure.vocabulary)
        asked = _Pass(
            rows=len(tokens),
            wanted=len(places),
            threads=torch.get_num_threads(),
            tokens=tokens.buffer_info()[0],
            positions=positions.buffer_info()[0],
            owners=owners.buffer_info()[0],
            places=places.buffer_info()[0],
            sequences=ctypes.addressof(sequences),
            cosines=self._angles.cosines.data_ptr(),
            sines=self._angles.sines.data_ptr(),
            logits=logits.data_ptr(),
            most_rank=max(change.rank if change else 0 for change in changes),
            angles=self._angles.positions,
        )
        if self._call(ctypes.addressof(self._decoder), ctypes.addressof(asked)):
            raise MemoryError(f"no memory for a pass of {len(tokens)} rows")
        for part, left in zip(parts, traces):
            part.memory.length += len(part.tokens)
            part.memory.traces = left
        return list(logits.split([part.wanted for part in parts]))


def _refused() -> RequestError:
    message = "compiled code, which computes this model, applies only adapters that are plain LoRA on layers it knows"
    return RequestError(400, message, code="adapter_unsupported", hint=HINT)


def fused(model: Any, other: Packed | None, reference: probe.Reference) -> Fused | str:
    """The fast way, or why this model cannot go it. `reference` is what the model itself computed."""
    try:
        forward = Fused(model, other)
    except (Unknown, NoKernel) as error:
        return str(error)
    except AttributeError as error:
        return f"this release's code of it is another: {error}"
    fault = probe.fault(forward, reference, model.dtype)
    return f"compiled code: {fault}" if fault else forward
