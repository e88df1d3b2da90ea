"""Whether an adapter fits its base, read off its files before peft is asked: what peft would answer with a stack trace,
with zeros in the place of what is missing, or with changes of the base, is told in words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bainmarie_worker import files
from bainmarie_worker.errors import LoadError

_WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_INJECTED = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA")
"""Kinds that live inside the base's layers, so that they can be switched off. Prompt tuning and its kin do not. Peft
puts no two kinds into one base."""
_FIRST = "LORA"

_READING = ("DoRA", "OFT", "BOFT", "HRA")
"""Kinds that are no sum of the base's output and something else."""
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of `init_lora_weights` with which peft puts other weights into the base while it loads the adapter."""

_SIDES = {".lora_A": 1, ".lora_B": 0, ".lora_embedding_A": 1, ".lora_embedding_B": 0}
"""Which dimension of a tensor is the layer's own; the other is the rank."""
_BASE = ".base_layer"
_ALONG = (_BASE, ".original_module", ".modules_to_save")
"""Ends of the names of layers that peft saves beside what an adapter changes, or as what it puts in their place."""
_HALVES = {f".lora_{part}{a}": f".lora_{part}{b}" for part in ("embedding_", "") for a, b in ("AB", "BA")}


def check(path: str, model: Any, allow_pickle: bool = False) -> None:
    """Reads the adapter's headers and compares them with the base. LoadError says in words what does not fit.

    Pickled weights, where they are allowed, are peft's to judge.
    """
    tensors = tensors_of(path, allow_pickle)
    _check_reads(path, files.read_json(os.path.join(path, CONFIG)), model)
    _check_kind(path, files.read_json(os.path.join(path, CONFIG)))
    _check_pairs(path, [tensor.name for tensor in tensors])
    for tensor in tensors:
        _check_tensor(path, tensor, model)


def tensors_of(path: str, allow_pickle: bool) -> list[files.Tensor]:
    """Of a complete adapter, else LoadError; none of a pickle."""
    weights = _files(path, allow_pickle)
    return files.tensors(weights) if weights.endswith(_WEIGHTS) else []


def _check_pairs(path: str, names: list[str]) -> None:
    """LoadError where half of a low-rank change is missing: peft would take zeros for it, or chance."""
    missing = _missing_halves(names)
    if missing:
        raise LoadError(
            "adapter_incomplete",
            f"the adapter {path} lacks {len(missing)} tensors, such as {missing[0]}",
            "Copy it again, or save it again with save_pretrained of the PEFT model.",
        )


def _missing_halves(names: Iterable[str]) -> list[str]:
    """Tensors of low-rank changes that are not there, while their other halves are."""
    there, wanted = set(names), set()
    for name in there:
        for half, other in _HALVES.items():
            if half in name:
                wanted.add(name.replace(half, other))
                break
    return sorted(wanted - there)


def kind_of(settings: Mapping[str, Any]) -> str:
    told = settings.get("peft_type", _FIRST)
    return str(getattr(told, "value", told)).upper()


def kind_among(paths: Iterable[str]) -> str:
    """The kind that is served where these are configured; empty for any. What cannot be read does not count."""
    kinds = set()
    for path in paths:
        with contextlib.suppress(OSError, ValueError, LoadError):
            kinds.add(kind_of(files.read_json(os.path.join(path, CONFIG))))
    known = kinds.intersection(_INJECTED)
    return _FIRST if _FIRST in known else min(known, default="")


def _check_kind(path: str, settings: dict[str, Any]) -> None:
    """LoadError where such an adapter cannot share its base with others, or would change it for them."""
    kind = kind_of(settings)
    if kind not in _INJECTED:
        raise LoadError(
            "adapter_unsupported",
            f"the adapter {path} is of the kind {kind}, which cannot share its base",
            f"Kinds that can: {', '.join(_INJECTED)}.",
        )
    begun = str(settings.get("init_lora_weights", "")).lower()
    if begun.startswith(_CHANGE_BASE):
        raise LoadError(
            "adapter_unsupported",
            f"the adapter {path} begins by changing its base's own weights (init_lora_weights: {begun}): the base and "
            "other adapters on it would answer wrongly",
            "Save it as plain LoRA (save_pretrained with path_initial_model_for_weight_conversion), or merge it.",
        )
    if settings.get("layer_replication"):
        raise LoadError(
            "adapter_unsupported",
            f"the adapter {path} repeats layers of its base (layer_replication), which then is another model",
            "Merge it into its base, and serve the result.",
        )


def needs_weights(path: str) -> bool:
    """Whether it computes with the base's weights, or puts layers of its own in the place of some. False where that
    cannot be read: what is wrong with it, `load` tells."""
    try:
        settings = files.read_json(os.path.join(path, CONFIG))
    except LoadError:
        return False
    return _nature(settings) in _READING or bool(settings.get("modules_to_save"))


def _nature(settings: dict[str, Any]) -> str:
    return "DoRA" if settings.get("use_dora") else kind_of(settings)


def _check_reads(path: str, settings: dict[str, Any], model: Any) -> None:
    """LoadError where the adapter computes with the base's weights and those are packed."""
    reads = _nature(settings)
    if reads in _READING and any(_packed(module) for module in model.modules()):
        raise LoadError(
            "adapter_unsupported",
            f"the adapter {path} is {reads}, which computes with its base's weights, and those are held quantized",
            "Load the base with `quantization: none`, or merge the adapter into its base.",
        )


def _files(path: str, allow_pickle: bool) -> str:
    """The weights file; LoadError if the directory is no complete adapter."""
    if not os.path.isdir(path):
        raise LoadError("model_not_found", f"the adapter directory {path} does not exist", "Correct `adapter:`.")
    names = set(os.listdir(path))
    if _WEIGHTS in names and CONFIG in names:
        return os.path.join(path, _WEIGHTS)
    if _WEIGHTS not in names and allow_pickle and {_PICKLED, CONFIG} <= names:
        return os.path.join(path, _PICKLED)
    if _WEIGHTS not in names:
        files.refuse_pickled(path, _WEIGHTS)
    missing = _WEIGHTS if _WEIGHTS not in names else CONFIG
    training = names & {"trainer_state.json", "optimizer.pt", "scheduler.pt", "training_args.bin"}
    inner = sorted(name for name in names if os.path.isfile(os.path.join(path, name, _WEIGHTS)))
    what = "a training checkpoint without adapter weights" if training else "no complete adapter"
    hint = "Set `adapter:` to the directory that save_pretrained of the PEFT model wrote."
    if inner:
        hint = f"An adapter lies one level below: {os.path.join(path, inner[-1])}"
    elif "config.json" in names:
        hint = "This looks like a whole model: set `model:` to it."
    raise LoadError("adapter_incomplete", f"{path} is {what}: {missing} is missing", hint)


def _check_tensor(path: str, tensor: files.Tensor, model: Any) -> None:
    """Compares one lora_A, lora_B or embedding tensor with the layer it belongs to; others are peft's to judge."""
    part = next((part for part in _SIDES if part in tensor.name), None)
    if part is None:
        _check_whole(path, tensor, model)
        return
    target, side = tensor.name.partition(part)[0], _SIDES[part]
    layer_name = target[len(_PREFIX) :] if target.startswith(_PREFIX) else target
    if ".experts" in layer_name:
        return  # transformers may fuse experts into one tensor, peft converts
    try:
        layer = model.get_submodule(layer_name)
    except AttributeError as error:
        raise LoadError(
            "adapter_mismatch",
            f"the adapter {path} changes {layer_name}, which {type(model).__name__} does not have",
            "It was trained on another base model: adapter_config.json names it as base_model_name_or_path.",
        ) from error
    size = _layer_size(layer, "embedding" in part)
    if size is not None and len(tensor.shape) == 2 and tensor.shape[side] != size[side]:
        raise LoadError(
            "adapter_mismatch",
            f"the adapter {path} does not fit: {tensor.name} has the shape {list(tensor.shape)}, "
            f"but {layer_name} of the base is {list(size)}",
            "It was trained on another base model: adapter_config.json names it as base_model_name_or_path.",
        )


def _check_whole(path: str, tensor: files.Tensor, model: Any) -> None:
    """A layer that the adapter brings as a whole must be of the base's size, and cannot be put in the place of one
    whose weights are packed."""
    name = tensor.name[len(_PREFIX) :] if tensor.name.startswith(_PREFIX) else tensor.name
    layer_name, _, last = name.rpartition(".")
    known = next((part for part in _ALONG if layer_name.endswith(part)), "")
    try:
        layer = model.get_submodule(layer_name[: len(layer_name) - len(known)])
    except AttributeError:
        return
    layer = getattr(layer, "base_layer", getattr(layer, "original_module", layer))
    weight = getattr(layer, "weight", None)
    size = _whole_size(layer)
    if last == "weight" and size is not None and len(tensor.shape) == 2 and tuple(tensor.shape) != size:
        raise LoadError(
            "adapter_mismatch",
            f"the adapter {path} does not fit: it brings {layer_name} in the shape {list(tensor.shape)}, and that of "
            f"the base is {list(size)}" + _grown(tensor.shape, size),
            "Where it was trained with added tokens: merge it (resize_token_embeddings of the base, "
            "PeftModel.from_pretrained, merge_and_unload, save_pretrained, its tokenizer beside it), and set `model:` "
            "to the result, without `adapter:`.",
        )
    if known != _BASE and weight is not None and (_packed(layer) or not weight.is_floating_point()):
        raise LoadError(
            "adapter_unsupported",
            f"the adapter {path} replaces {tensor.name} as a whole, and the base holds it quantized",
            "Load the base with `quantization: none`, or merge the adapter into its base.",
        )


def _packed(layer: Any) -> bool:
    """Whether its `weight` has no values."""
    return type(layer).__name__ in ("Int8Linear", "Int4Linear")


def _grown(shape: Sequence[int], size: Sequence[int]) -> str:
    """What it means that only the first number is another one."""
    return f": a vocabulary of {shape[0]} tokens, not {size[0]}" if shape[1] == size[1] else ""


def _whole_size(layer: Any) -> tuple[int, int] | None:
    if hasattr(layer, "num_embeddings"):
        return (layer.num_embeddings, layer.embedding_dim)
    return (layer.out_features, layer.in_features) if hasattr(layer, "out_features") else None


def _layer_size(layer: Any, embedding: bool) -> tuple[int, int] | None:
    """(outputs, inputs) of a layer, whatever its class calls them; None where that is not known."""
    layer = getattr(layer, "base_layer", layer)
    if embedding and hasattr(layer, "num_embeddings"):
        return (layer.embedding_dim, layer.num_embeddings)
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return (layer.out_features, layer.in_features)
    if hasattr(layer, "nf") and hasattr(layer, "weight"):
        return (int(layer.nf), int(layer.weight.shape[0]))
    return None
