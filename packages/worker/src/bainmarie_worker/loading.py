"""From a name to a model in memory: find, judge, import, load, and classify what goes wrong.

Runs on the engine's thread, which is the first to import torch. Every failure is a `LoadError` with a stable code:
model_not_found, model_incomplete, pickled_weights, architecture_unknown, remote_code, package_missing,
device_unavailable, quantization, out_of_memory, load_failed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bainmarie_protocol import Progress, WorkerConfig
from bainmarie_worker import files, hub
from bainmarie_worker.engine.engine import Report
from bainmarie_worker.errors import LoadError
from bainmarie_worker.tokenizer import TransformersTokenizer
from bainmarie_worker.weights import weights_progress

_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""Names under which architectures keep the longest sequence they know."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Loaded:
    """A model in memory, ready for its first forward pass."""

    model: Any
    tokenizer: TransformersTokenizer
    device: Any
    context: int | None
    defaults: dict[str, Any]
    end_ids: frozenset[int]
    info: dict[str, object]


def load(config: WorkerConfig, report: Report) -> Loaded:
    """Loads the base model of `config`. Never falls back: a device or quantization that is not there is an error.

    What the files can tell is judged first, before seconds go into imports.
    """
    directory = hub.locate(config.model, report)
    settings = files.model_config(directory)
    paths = files.weight_files(directory)
    report(Progress("imports", detail="torch, transformers"))
    torch = _import("torch")
    transformers = _import("transformers")
    _set_threads(torch)
    report(Progress("config"))
    _check_architecture(config, settings, transformers)
    device = _device(torch, config.device)
    try:
        tokenizer = _load_tokenizer(config, directory, transformers)
        model = _load_weights(config, directory, paths, device, report)
    except LoadError:
        raise
    except Exception as error:
        raise _classified(error, config) from error
    model.eval()
    generation = model.generation_config
    context = _context(config, model.config)
    return Loaded(
        model=model,
        tokenizer=TransformersTokenizer(tokenizer),
        device=device,
        context=context,
        defaults=_defaults(generation),
        end_ids=frozenset(_ids(generation.eos_token_id) or _ids(tokenizer.eos_token_id)),
        info={
            "engine": "transformers",
            "device": str(device),
            "dtype": str(model.dtype).replace("torch.", ""),
            "quantization": config.quantization,
            "context": context,
            "parameters": model.num_parameters(),
            "architecture": type(model).__name__,
            "path": directory,
        },
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was the cause, of the accelerator or of the machine."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise LoadError(
            "package_missing",
            f"{missing} cannot be imported in {sys.executable}: {error}",
            f"Add {missing.partition('.')[0]} to the packages of the model's environment.",
        ) from error


def _set_threads(torch: Any) -> None:
    """Called on the engine's thread: OpenMP keeps the count for each thread that asks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(max(1, min(int(wanted), cores)) if wanted.isdigit() else cores)


def _check_architecture(config: WorkerConfig, settings: dict[str, Any], transformers: Any) -> None:
    model_type = settings.get("model_type")
    if settings.get("auto_map") and config.trust_remote_code:
        return
    if model_type in transformers.CONFIG_MAPPING:
        return
    if settings.get("auto_map"):
        raise LoadError(
            "remote_code",
            f"{config.model} brings its own Python code, which is not run without consent",
            "Read the code; if you trust it, set `trust_remote_code: true` for this model.",
        )
    raise LoadError(
        "architecture_unknown",
        f"transformers {transformers.__version__} does not know the architecture {model_type!r} of {config.model}",
        "Give the model an environment with a newer transformers.",
    )


def _device(torch: Any, wanted: str) -> Any:
    """The device by name; LoadError `device_unavailable` if this machine or this torch has none such."""
    mps = getattr(torch.backends, "mps", None)
    has_mps = mps is not None and mps.is_available()
    has_cuda = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda:0" if has_cuda else "mps" if has_mps else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise LoadError("device_unavailable", f"{wanted!r} names no device", "Use auto, cpu, cuda:N or mps.") from error
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        fits = has_cuda and device.index < torch.cuda.device_count()
    else:
        fits = device.type == "cpu" or (device.type == "mps" and has_mps)
    if not fits:
        count = torch.cuda.device_count() if has_cuda else 0
        raise LoadError(
            "device_unavailable",
            f"device {wanted!r} is not available: torch {torch.__version__} sees {count} CUDA devices, mps: {has_mps}",
            "Set `device: cpu`, or give the environment a torch build for this accelerator.",
        )
    return device


def _load_tokenizer(config: WorkerConfig, directory: str, transformers: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(
        directory, trust_remote_code=config.trust_remote_code, local_files_only=True
    )


def _load_weights(config: WorkerConfig, directory: str, paths: list[str], device: Any, report: Report) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    options: dict[str, Any] = {_dtype_name(): dtype}
    quantization = _quantization(config, directory, dtype)
    if quantization is not None:
        options["quantization_config"] = quantization
    placed = device.type != "cpu" or quantization is not None
    if placed:
        _import("accelerate")
        options["device_map"] = {"": device}
    with weights_progress(paths, report):
        model, outcome = AutoModelForCausalLM.from_pretrained(
            directory,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
            **options,
        )
    missing = sorted(outcome["missing_keys"])
    if missing:
        raise LoadError(
            "model_incomplete",
            f"{directory} lacks {len(missing)} tensors of {type(model).__name__}, such as {missing[0]}",
            "The weights belong to another architecture, or the checkpoint was saved without them.",
        )
    return model


def _dtype_name() -> str:
    """What from_pretrained calls the dtype in this version."""
    major, minor = importlib.metadata.version("transformers").split(".")[:2]
    return "dtype" if (int(major), int(minor)) >= (4, 56) else "torch_dtype"


def _quantization(config: WorkerConfig, directory: str, dtype: Any) -> Any:
    """The bitsandbytes settings, or None. The checkpoint's own quantization is transformers' business."""
    if config.quantization == "none":
        return None
    own = files.model_config(directory).get("quantization_config")
    if own:
        raise LoadError(
            "quantization",
            f"{directory} is quantized already ({own.get('quant_method', 'unknown')}): {config.quantization} cannot be "
            "put on top",
            "Set `quantization: none`.",
        )
    _import("bitsandbytes")
    import torch
    from transformers import BitsAndBytesConfig

    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if dtype == "auto" else dtype
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=config.quantization, bnb_4bit_compute_dtype=compute
    )


def _context(config: WorkerConfig, settings: Any) -> int | None:
    """The longest sequence: the configuration's, else the model's. LoadError if the wish is more than the model has."""
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    own = next((int(value) for name in _LIMITS if (value := getattr(text, name, None))), None)
    if config.context is not None and own is not None and config.context > own:
        raise LoadError(
            "load_failed",
            f"context {config.context} is more than the {own} tokens that {config.model} knows",
            f"Set `context` to {own} or less.",
        )
    return config.context or own


def _defaults(generation: Any) -> dict[str, Any]:
    """Sampling as the checkpoint's generation_config wishes it; greedy where it says nothing."""
    if not generation.do_sample:
        return {}
    values = {name: getattr(generation, name, None) for name in _SAMPLING}
    return {"temperature": 1.0, **{name: value for name, value in values.items() if value is not None}}


def _ids(value: int | Iterable[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else [int(v) for v in value]


def _classified(error: Exception, config: WorkerConfig) -> LoadError:
    """What transformers' error means. The full trace is in the log."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if is_out_of_memory(error):
        return LoadError(
            "out_of_memory",
            f"{config.model} does not fit into memory: {first}",
            "Load it with quantization, choose another device, or unload other models.",
        )
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        hint = f"Add {name} to the packages of the model's environment." if name else "Add the package it names."
        return LoadError("package_missing", f"{config.model} needs a package that is not there: {error}", hint)
    if "trust_remote_code" in str(error):
        return LoadError(
            "remote_code",
            f"{config.model} brings its own Python code, which is not run without consent",
            "Read the code; if you trust it, set `trust_remote_code: true` for this model.",
        )
    return LoadError(
        "load_failed",
        f"{config.model} cannot be loaded: {type(error).__name__}: {first}",
        "The log has the whole trace: `bain logs`.",
    )
