"""What a worker imports before it can load, done once in the fork server; and whether that left it fit to be forked.

Imports alone: no weights, no accelerator, no parallel region. What fails here is left to the worker, which reports it.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from bainmarie_worker.interpreter import interpreter_info

_SERVER = (
    *("uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto", "uvicorn.lifespan.off"),
    *("asyncio.runners", "concurrent.futures.thread", "difflib"),
)
"""What uvicorn and the standard library import only when they begin to serve."""
_DEVICES = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/accel/*")


def preload(engine: str, model: str, adapters: bool) -> None:
    """Imports what a worker with `engine` needs for the model in that directory. Fast where it was done before."""
    with _one_blas_thread():
        for name in _SERVER:
            _try_import(name)
        if engine == "transformers":
            _transformers(model, adapters)
        elif engine == "fake":
            _try_import("bainmarie_worker.fake")
        interpreter_info()


def obstacle(device: str) -> str:
    """Why this process must not be forked for a model on `device`; empty where it may be."""
    threads = _threads()
    if threads > 1:
        return f"its imports have started {threads - 1} threads, which a fork would lose"
    if any(path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dxg")) for path in _open_files()):
        return "its imports have opened the accelerator, which cannot be shared with a forked process"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "its imports have initialized CUDA, which cannot be used after a fork"
    if device == "auto" and torch is not None and _may_find_accelerator(torch):
        return "`device: auto` may find an accelerator here; models that start on one get a fresh process"
    return ""


def _transformers(model: str, adapters: bool) -> None:
    torch = _try_import("torch")
    if torch is None:
        return
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    _try_import("transformers")
    for name in ("bainmarie_worker.warm", "bainmarie_worker.engine.runner", *(("peft",) if adapters else ())):
        _try_import(name)
    with _reported():
        _architecture(model)
    with contextlib.suppress(Exception):  # a worker asks again, and says why it has to do without
        _try_import("bainmarie_worker.engine.fused.kernel").kernel()


def _architecture(model: str) -> None:
    """The classes that from_pretrained would import for this model; never code that comes with the model."""
    import transformers
    from transformers.models.auto import modeling_auto

    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "PreTrainedTokenizerFast", "GenerationConfig"):
        getattr(transformers, name)
    settings = _settings(model)
    kind = settings.get("model_type")
    if kind in transformers.CONFIG_MAPPING:
        transformers.CONFIG_MAPPING[kind]
    seeing = getattr(modeling_auto, "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", {})
    wanted = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind) or seeing.get(kind)
    for name in [wanted] if isinstance(wanted, str) else wanted or ():
        getattr(transformers, name, None)
    with contextlib.suppress(ImportError):  # transformers 4 has no such rules
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping(kind)  # the first call compiles the rules of all architectures: 0.1 s


def _settings(model: str) -> dict[str, Any]:
    """config.json of a directory, or of a hub model in the cache; empty where there is none yet."""
    path: Any = os.path.join(os.path.expanduser(model), "config.json")
    if not os.path.isfile(path):
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(model, "config.json")
    if not isinstance(path, str):
        return {}
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    return found if isinstance(found, dict) else {}


def _try_import(name: str) -> Any:
    with _reported():
        return importlib.import_module(name)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """An error goes to the log of the fork server: the worker meets it again and tells the user."""
    try:
        yield
    except Exception:  # noqa: BLE001 - foreign code at import time may raise anything
        traceback.print_exc(file=sys.stderr)


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """numpy's OpenBLAS starts its threads when it is imported, unless it is told not to."""
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OPENBLAS_NUM_THREADS"]
        else:
            os.environ["OPENBLAS_NUM_THREADS"] = before


def _threads() -> int:
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1


def _open_files() -> Iterator[str]:
    """What the open descriptors lead to, where the system tells it."""
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):  # the descriptor that reads the list is gone by now
            yield os.readlink(f"/proc/self/fd/{name}")


def _may_find_accelerator(torch: Any) -> bool:
    """From the build and the device files: asking the driver would initialize it."""
    version = torch.version
    built = any(getattr(version, name, None) for name in ("cuda", "hip", "xpu"))
    render = glob.glob("/dev/dri/renderD*") if getattr(version, "xpu", None) else []
    return built and bool(render or any(glob.glob(pattern) for pattern in _DEVICES))
