"""Checkpoints whose linear layers are held in groups of 4 bits, as compressed-tensors writes them, on the CPU.

Its library makes 16-bit weights of them for good. Here it does so while it loads, and then each layer is packed on the
checkpoint's own grid: the same weights, in a quarter of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bainmarie_protocol import Progress
from bainmarie_worker.engine.engine import Report

_SIZES = (32, 64, 128, 256)
"""Groups that torch's kernel knows."""
_PACKED, _SCALE = ".weight_packed", ".weight_scale"


def fits(stored: dict[str, Any], device: Any) -> bool:
    """Whether all that such a quantization_config tells of can be held so: weights alone, symmetric, in their order."""
    if device.type != "cpu" or stored.get("quant_method") != "compressed-tensors" or stored.get("kv_cache_scheme"):
        return False
    groups = list((stored.get("config_groups") or {}).values())
    return bool(groups) and all(_fits(group, str(stored.get("format"))) for group in groups)


def repack(model: Any, paths: list[str], report: Report) -> int:
    """Packs the layers that the files `paths` hold in groups; how many parameters that are. What no kernel fits stays
    whole."""
    from torch import nn

    from bainmarie_worker.packed_linear import Int4Linear

    grids = list(_grids(paths))
    count = 0
    for place, (name, scales) in enumerate(grids, 1):
        report(Progress("pack", place, len(grids), "layers", "int4"))
        parent, _, child = name.rpartition(".")
        holder = model.get_submodule(parent)
        layer: Any = getattr(holder, child, None)
        if type(layer) is nn.Linear and Int4Linear.fits(layer, layer.in_features // scales.shape[1]):
            count += layer.weight.numel()
            setattr(holder, child, Int4Linear(layer, scales))
    return count


def _fits(group: dict[str, Any], written: str) -> bool:
    weights = group.get("weights") or {}
    return (
        (group.get("format") or written) == "pack-quantized"
        and not group.get("input_activations")
        and not group.get("output_activations")
        and (weights.get("num_bits"), weights.get("type"), weights.get("strategy")) == (4, "int", "group")
        and weights.get("symmetric") is True
        and weights.get("group_size") in _SIZES
        and weights.get("actorder") in (None, False, "static", "weight")
    )


def _grids(paths: list[str]) -> Iterator[tuple[str, Any]]:
    """(layer, its scales [outputs, groups]) of all that is held in groups."""
    from safetensors import safe_open

    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                if name.endswith(_PACKED):
                    layer = name[: -len(_PACKED)]
                    yield layer, file.get_tensor(layer + _SCALE)
