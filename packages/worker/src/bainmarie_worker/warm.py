"""Load, then one small answer before anybody asks: the first request shall not pay for what is made on first use."""

from __future__ import annotations

import gc
import os
from typing import Any

from bainmarie_protocol import Progress, WorkerConfig
from bainmarie_worker.engine.engine import Report, Runner
from bainmarie_worker.engine.options import EngineOptions
from bainmarie_worker.errors import LoadError
from bainmarie_worker.failures import classified, is_out_of_memory
from bainmarie_worker.loading import Loaded, load

_OF_CUDA, _OF_MAIN = 0.8, 0.25
"""Of what is free after the load: other models live in main memory too."""


def load_and_warm(config: WorkerConfig, report: Report) -> Runner:
    """On the engine's thread. LoadError from the load, or where the first forward pass fails."""
    options = EngineOptions.read(config.options)
    loaded = load(config, report)
    report(Progress("warmup"))
    try:
        runner = _warmed(config, options, loaded)
    except LoadError:
        raise
    except Exception as error:
        raise _unable(error, config, loaded) from error
    runner.tokenizer.warm()
    gc.freeze()  # a full collection in the middle of an answer shall find little
    return runner


def _warmed(config: WorkerConfig, options: EngineOptions, loaded: Loaded) -> Runner:
    from bainmarie_worker.engine.runner import TransformersRunner

    prepack = not config.shares_weights if options.prepack is None else options.prepack
    cache_bytes = options.cache_bytes or _cache_bytes(loaded.device)
    adapters = [model.adapter for model in config.models if model.adapter]
    return TransformersRunner(loaded, options, cache_bytes, prepack, config.socket, adapters)


def _unable(error: Exception, config: WorkerConfig, loaded: Loaded) -> LoadError:
    """What it means that a model which is in memory computes nothing."""
    held = loaded.info["quantization"]
    if held == "none" or is_out_of_memory(error):
        return classified(error, config)
    return LoadError(
        "quantization",
        f"{config.model} in {held} cannot be computed on {loaded.device}: {type(error).__name__}: {error}",
        "The kernels may not take layers of its sizes: set another `quantization`, or another device.",
    )


def _cache_bytes(device: Any) -> int:
    """A part of what is free now that the weights are in."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0] * _OF_CUDA)
    return int(_free_memory() * _OF_MAIN)


def _free_memory() -> int:
    """Bytes of main memory that can be had without swapping; where the system does not say, half of all."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError):  # Windows
        return 8 << 30
