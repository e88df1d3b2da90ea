"""The ways in which a model can be computed, best first: fused (processors) or captured (CUDA), packed, apart, and at
last the library's own `generate()`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bainmarie_worker.engine import probe
from bainmarie_worker.engine.apart import apart
from bainmarie_worker.engine.captured.forward import captured
from bainmarie_worker.engine.fused.forward import Fused, fused
from bainmarie_worker.engine.memory import Forward
from bainmarie_worker.engine.packed import Packed, packed
from bainmarie_worker.errors import LoadError


def best_way(model: Any, device: torch.device, wish: str = "auto") -> Forward | str:
    """The best way that fits this model, or the wanted one. Where it is `generate()`: why no better one.

    LoadError `bad_option` where the model cannot go the wanted way.
    """
    if wish == "generate":
        return "the option path is generate"
    with _a_core_left():
        with probe.shortened(model) as short:
            found = _found(model, device, wish) if short else None
        if isinstance(found, Fused):
            found = found.of_whole(model)
        if found is None or isinstance(found, str) or not found.packs:  # what fails there may be the shortening
            found = _found(model, device, wish)
    if isinstance(found, str) and wish != "auto":
        raise LoadError("bad_option", f"this model cannot go the path {wish}: {found}", "Take the option path away.")
    return found


@contextmanager
def _a_core_left() -> Iterator[None]:
    """For the thread that fills the page tables of the weights meanwhile (`prefault`): those of a pass wait for the
    slowest of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before - 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _found(model: Any, device: torch.device, wish: str) -> Forward | str:
    try:
        reference = probe.reference(model, device)
    except Exception as error:  # noqa: BLE001 - foreign code; generate() may know how to call it
        return f"its forward pass fails: {type(error).__name__}: {error}"
    why = "" if wish == "auto" else f"the option path is {wish}"
    if wish in ("auto", "fused", "captured", "packed"):
        before = model.config._attn_implementation
        fast = packed(model, device, reference, why)
        if not isinstance(fast, str):
            found = fast if wish == "packed" else _faster(model, device, reference, fast, wish)
            if isinstance(found, str):
                model.set_attn_implementation(before)
            return found
        why = fast
    if wish in ("auto", "fused") and device.type == "cpu":
        alone = fused(model, None, reference)
        if not isinstance(alone, str):
            return alone
        why = f"{why}; not fused: {alone}" if wish == "auto" else alone
    if wish in ("auto", "apart"):
        own = apart(model, device, reference, why)
        if not isinstance(own, str):
            return own
        why = own
    return why


def _faster(model: Any, device: torch.device, reference: probe.Reference, packed: Packed, wish: str) -> Forward | str:
    """Fused or captured, as the device has it. Where neither goes: packed, or why not, where one of them is wished."""
    way = {"cpu": "fused", "cuda": "captured"}.get(device.type, "")
    if wish not in ("auto", way):
        return "compiled code is for processors" if wish == "fused" else "captured passes are for CUDA devices"
    if not way:
        return packed
    better = fused(model, packed, reference) if way == "fused" else captured(model, packed, device, reference)
    if isinstance(better, str) and wish == "auto":
        packed.why = f"not {way}: {better}"
        return packed
    return better
