"""Where a model computes: the device by name, the map over several, threads, and the dtype of its weights."""

from __future__ import annotations

import inspect
import os
from typing import Any

from bainmarie_protocol import WorkerConfig
from bainmarie_worker.errors import LoadError
from bainmarie_worker.packages import need, version_of


def set_threads(torch: Any) -> None:
    """Called on the engine's thread: OpenMP keeps the count for each thread that asks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(max(1, min(int(wanted), cores)) if wanted.isdigit() else cores)


def device_for(torch: Any, wanted: str) -> Any:
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


def placement(config: WorkerConfig, device: Any, needs_accelerate: bool) -> dict[str, Any]:
    """What from_pretrained is told about devices. LoadError where several are wished for and there is none."""
    if config.device_map is not None:
        if device.type == "cpu":
            raise LoadError(
                "device_unavailable",
                f"`device_map: {config.device_map}` spreads layers over accelerators, and this machine has none",
                "Remove `device_map`, or give the environment a torch build for the accelerators.",
            )
        need("accelerate")
        return {"device_map": config.device_map}
    if device.type == "cpu" and not needs_accelerate:
        return {}
    need("accelerate")
    return {"device_map": {"": device}}


def first_device(model: Any, device: Any) -> Any:
    """Where token ids must be: the device of the embeddings, which a map may have put anywhere."""
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    weight = getattr(embeddings, "weight", None)
    return device if weight is None or weight.device.type == "meta" else weight.device


def code_free_option(model_class: Any) -> dict[str, bool]:
    """How from_pretrained of this version is told to run no code of pickles; before 4.42 it does so unasked."""
    known = inspect.signature(model_class.from_pretrained).parameters
    return {"weights_only": True} if "weights_only" in known else {}


def dtype_option(torch: Any, dtype: str) -> dict[str, Any]:
    """The dtype as from_pretrained of this version takes it."""
    name = "dtype" if version_of("transformers") >= (4, 56) else "torch_dtype"
    return {name: "auto" if dtype == "auto" else getattr(torch, dtype)}
