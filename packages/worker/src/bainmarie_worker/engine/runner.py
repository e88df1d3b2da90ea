"""A transformers model at work: the way its sequences are computed, its adapters, and what its errors mean."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable

import torch

from bainmarie_worker.adapter_fit import needs_weights
from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.adapted import Adapted
from bainmarie_worker.engine.batch import Batch
from bainmarie_worker.engine.captured.forward import Captured
from bainmarie_worker.engine.cores import Cores
from bainmarie_worker.engine.engine import Report, Tokenizer
from bainmarie_worker.engine.fused.forward import HINT
from bainmarie_worker.engine.library import Library
from bainmarie_worker.engine.linears import Prepacking, unpack
from bainmarie_worker.engine.memory import Forward, Part
from bainmarie_worker.engine.options import EngineOptions
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Adapter, TokenStream
from bainmarie_worker.engine.ways import best_way
from bainmarie_worker.errors import LoadError, RequestError
from bainmarie_worker.loading import Loaded, is_out_of_memory


class TransformersRunner:
    """Implements `Runner`. Made and used on the engine's thread only.

    The first way that fits: fused (all sequences in one call of compiled code) or captured (in passes that a CUDA
    device repeats), packed (in one pass of the model's own code), apart (a pass for each sequence), and the library's
    own `generate()`. `info["engine_path"]` and `info["engine_path_reason"]` say which, and why no better one.
    """

    def __init__(
        self,
        loaded: Loaded,
        options: EngineOptions,
        cache_bytes: int,
        prepack: bool = True,
        socket: str = "",
        adapters: Iterable[str] = (),
    ) -> None:
        """`adapters` are those that are configured on it.

        LoadError `bad_option` where the model cannot go the way that `options` demand."""
        torch.seed()  # else all workers would draw the same numbers, each time they start
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.context = loaded.context
        self.defaults = loaded.defaults
        self.vocabulary = loaded.vocabulary
        self._device: torch.device = loaded.device
        self._loop: Batch | Library
        forward = best_way(loaded.model, loaded.device, options.path)
        mix = not isinstance(forward, str) and forward.packs
        self._adapters = Adapters(loaded.model, mix, loaded.allow_pickle, adapters)
        self._applies: Callable[[str], bool] = lambda path: True
        if isinstance(forward, str):
            self._loop = Library(loaded.model, self._device, self._adapters, loaded.end_ids, self._sampler, self._fail)
            self._loop.warm()
            way, why = "generate", forward
        else:
            if isinstance(forward, Captured):
                cache_bytes = forward.make_room(cache_bytes)
            adapted = Adapted(forward, self._adapters)
            self._applies = adapted.applies
            self._loop = Batch(adapted, loaded.end_ids, self._sampler, self._described, cache_bytes, options.speculate)
            way, why = forward.path, forward.why
            _warm(forward)
        prepack = prepack and self._device.type == "cpu" and way != "fused"
        self._model = loaded.model
        self._prepacks = prepack
        self._prepacking = Prepacking(loaded.model) if prepack else None
        threads = 1 if self._device.type != "cpu" or "OMP_NUM_THREADS" in os.environ else torch.get_num_threads()
        self._cores = Cores(socket, threads, torch.set_num_threads)
        self.info = {
            **loaded.info,
            "engine_path": way,
            "engine_path_reason": why,
            "cache_bytes": cache_bytes,
            "prepack": self._prepacking is not None,
        }

    @property
    def busy(self) -> bool:
        return self._loop.busy

    @property
    def running(self) -> int:
        return self._loop.running

    def submit(self, stream: TokenStream) -> None:
        adapter = stream.sequence.adapter
        try:
            if adapter is not None:
                self.load_adapter(adapter, lambda step: None)
        except LoadError as error:
            stream.put(error.as_request_error())
            return
        self._loop.submit(stream)

    def step(self) -> None:
        self._cores.take()
        with torch.inference_mode():
            self._loop.step()
        if not self._loop.busy:
            self._cores.leave()

    def tidy(self) -> bool:
        if self._prepacking is None:
            return False
        with torch.inference_mode():
            more = self._prepacking.step()
        if not more:
            self._prepacking = None
        return more

    def uses(self, adapter: Adapter) -> bool:
        return self._loop.uses(adapter)

    def load_adapter(self, path: str, report: Report) -> None:
        if self._prepacks and path not in self._adapters and needs_weights(path):
            self._prepacking, self._prepacks = None, False  # prepacked layers have no values to compute with
            unpack(self._model)
        self._adapters.load(path, report)
        if not self._applies(path):
            self._adapters.unload(path)
            raise LoadError(
                "adapter_unsupported",
                f"the adapter {path} is more than LoRA on layers that compiled code knows, which computes this model",
                HINT,
            )

    def unload_adapter(self, path: str) -> None:
        self._loop.forget(path)
        self._adapters.unload(path)

    def _sampler(self, stream: TokenStream) -> Sampler:
        sequence = stream.sequence
        return Sampler(sequence.sampling, sequence.prompt, self._device, sequence.logprobs)

    def _described(self, error: Exception, stream: TokenStream) -> RequestError:
        """What a failed pass or draw means for its request."""
        if isinstance(error, RequestError):
            return error
        if not is_out_of_memory(error):
            traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
            return RequestError(500, f"{type(error).__name__}: {error}", code="engine_error")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        sequence = stream.sequence
        return RequestError(
            507,
            f"out of memory on {self._device} at {len(sequence.prompt)} prompt tokens and up to "
            f"{sequence.max_tokens} to generate",
            code="out_of_memory",
            hint=f"Ask for less than {len(sequence.prompt) + sequence.max_tokens} tokens together, or load the model "
            "with quantization.",
        )

    def _fail(self, stream: TokenStream, error: Exception) -> None:
        stream.put(self._described(error, stream))


@torch.inference_mode()
def _warm(forward: Forward) -> None:
    """One pass through the whole model: its weights are read for the first time, its kernels are made."""
    result = forward.run([Part(forward.memory(), [0], 1)])[0]
    if isinstance(result, Exception):
        raise result
