"""What a CUDA device has been told once, it can be told again with one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch

Compute = Callable[[], torch.Tensor]
Capture = Callable[[Compute], Compute]
"""From a computation to its repetition, which reads and writes the same memory and gives the same tensor, changed."""


class Graphs:
    """Captures on one device; all captures share their memory, so that a result lasts until the next repetition."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, compute: Compute) -> Compute:
        """RuntimeError where the computation waits for the device, or for its data: then nothing was captured."""
        with torch.cuda.device(self._device):
            self._prove(compute)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = compute()

        def again() -> torch.Tensor:
            graph.replay()
            return result

        return again

    def _prove(self, compute: Compute) -> None:
        """A capture that fails can leave a device unusable, so it is tried without one first."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            compute()
        finally:
            torch.cuda.set_sync_debug_mode(before)
