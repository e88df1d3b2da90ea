"""A transformers model at work, for one sequence at a time: the right adapter, the right loop, memory given back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import transformers

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.engine import Report, Tokenizer
from bainmarie_worker.engine.library import Library
from bainmarie_worker.engine.sequence import Finish, Sequence
from bainmarie_worker.engine.stepping import Stepping
from bainmarie_worker.errors import RequestError
from bainmarie_worker.loading import Loaded, is_out_of_memory


class TransformersRunner:
    """Implements `Runner`. Made and used on the engine's thread only."""

    def __init__(self, loaded: Loaded) -> None:
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.context = loaded.context
        self.defaults = loaded.defaults
        self.info = loaded.info
        self._device: torch.device = loaded.device
        self._adapters = Adapters(loaded.model)
        loop = Stepping if Stepping.fits(loaded.model, transformers.__version__) else Library
        self._loop: Stepping | Library = loop(loaded.model, loaded.device, loaded.end_ids)

    def generate(self, sequence: Sequence, accept: Callable[[int], None], cancelled: threading.Event) -> Finish:
        """See `Runner`. RequestError 507 `out_of_memory` when the sequence does not fit; all caches are given back."""
        try:
            self._adapters.use(sequence.adapter)  # outside: peft marks parameters in ways inference tensors refuse
            with torch.inference_mode():
                return self._loop.generate(sequence, accept, cancelled)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._loop.free()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        size = len(sequence.prompt) + sequence.max_tokens
        raise RequestError(
            507,
            f"out of memory on {self._device} at {len(sequence.prompt)} prompt tokens and up to "
            f"{sequence.max_tokens} to generate",
            code="out_of_memory",
            hint=f"Ask for less than {size} tokens together, or load the model with quantization.",
        )

    def load_adapter(self, path: str, report: Report) -> None:
        self._adapters.load(path, report)

    def unload_adapter(self, path: str) -> None:
        self._loop.forget(path)
        self._adapters.unload(path)
