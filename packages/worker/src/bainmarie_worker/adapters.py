"""PEFT adapters on the one base model: judged, loaded when first asked for, switched, dropped.

The base's weights are never copied. A base request runs with every adapter off; an adapter's request with its own
alone. Adapters are known by their directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bainmarie_protocol import Progress
from bainmarie_worker import files
from bainmarie_worker.adapter_settings import refuse_unknown
from bainmarie_worker.brought_along import base_kept
from bainmarie_worker.engine.engine import Report
from bainmarie_worker.engine.lora import Routing, Weights, route, weights_of
from bainmarie_worker.engine.sequence import Adapter
from bainmarie_worker.errors import LoadError

_WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_INJECTED = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA")
"""Kinds that live inside the base's layers, so that they can be switched off. Prompt tuning and its kin do not. Peft
puts no two kinds into one base."""
_FIRST = "LORA"

_READING = ("DoRA", "OFT", "BOFT", "HRA")
"""Kinds that are no sum of the base's output and something else."""
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of `init_lora_weights` with which peft puts other weights into the base while it loads the adapter."""


class Adapters:
    """All adapters of one base model. For the engine's thread only."""

    def __init__(
        self, model: Any, mix: bool = False, allow_pickle: bool = False, configured: Iterable[str] = ()
    ) -> None:
        """With `mix`, adapters that can be are made ready to share a pass (see `mixed`). Those that are `configured`
        say which kind is served, whatever is asked for first: LoRA if there is one, else the first kind by name. Where
        none is, it is that of the one that is loaded first, until all are unloaded."""
        self._kind = _kind_among(configured)
        self._mix = mix
        self._allow_pickle = allow_pickle
        self._model = model
        self._peft: Any = None
        self._names: dict[str, str] = {}
        self._made = 0
        self._changes = 0
        self._active: Adapter = None
        self._routing = Routing()
        self._weights: dict[str, Weights] = {}
        self.mixed = mix
        """Whether sequences with different adapters may share a pass: see `assign`, else `use`."""

    def __contains__(self, path: str) -> bool:
        """Whether it is loaded."""
        return path in self._names

    def assign(self, groups: list[tuple[Adapter, int, int]]) -> None:
        """Where `mixed`: so many rows of the next pass belong to this adapter, and of so many logits are wanted, in
        this order."""
        self._routing.assign([(path and self._names[path], rows, wanted) for path, rows, wanted in groups])

    def use(self, path: Adapter) -> None:
        """From now on the model computes with this adapter alone, or with none. Loads it if need be."""
        if path == self._active:
            return
        if path is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self.load(path, lambda step: None)
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(self._names[path])
        self._active = path

    def weights(self, path: str) -> Weights | None:
        """What an adapter changes, where it is plain LoRA on linear layers; the same object until it is unloaded."""
        name = self._names.get(path)
        if name is None or not self.mixed:
            return None
        if name not in self._weights:
            self._weights[name] = weights_of(self._model, name)
        return self._weights[name]

    def named(self, path: str) -> tuple[str, int]:
        """What stands for the weights of a loaded adapter; another one after any change of the set, which may move
        them."""
        return self._names[path], self._changes

    def load(self, path: str, report: Report) -> None:
        """Idempotent. LoadError `adapter_incomplete`, `adapter_mismatch`, `adapter_unsupported`, `package_missing`,
        `version_too_old`.
        """
        if path in self._names:
            return
        report(Progress("adapter", detail=path))
        check(path, self._model, self._allow_pickle)
        settings = files.read_json(os.path.join(path, _CONFIG))
        self._refuse_other_kind(path, _kind(settings))
        try:
            from peft import PeftModel
        except ImportError as error:
            raise LoadError(
                "package_missing",
                f"the adapter {path} needs peft, which cannot be imported: {error}",
                "Add peft to the packages of the model's environment.",
            ) from error
        refuse_unknown(path, settings)
        with contextlib.suppress(ImportError):
            import torch.distributed.tensor  # noqa: F401 - peft 0.21 uses it and trusts transformers to import it
        self._made += 1
        name = f"adapter{self._made}"
        try:
            with base_kept(path, _tensors(path, self._allow_pickle), self._model):
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(
                        self._model, path, adapter_name=name, autocast_adapter_dtype=False
                    )
                else:
                    self._peft.load_adapter(path, adapter_name=name, autocast_adapter_dtype=False)
        except Exception as error:  # peft calls what it likes: any error of it concerns this adapter alone
            raise self._failed(path, name, error) from error
        self._names[path] = name
        self._peft.eval()
        self._rest()

    def unload(self, path: str) -> None:
        """Idempotent. The base stays as it is."""
        name = self._names.pop(path, None)
        if name is None:
            return
        self._weights.pop(name, None)
        if self._active == path:
            self.use(None)
        if self._names:
            self._peft.delete_adapter(name)
        else:
            self._strip()
        self._rest()

    def _refuse_other_kind(self, path: str, kind: str) -> None:
        held = [_kind(vars(one)) for one in self._peft.peft_config.values()] if self._names else []
        served = self._kind or next(iter(held), kind)
        if kind != served:
            raise LoadError(
                "adapter_unsupported",
                f"the adapter {path} is of the kind {kind}, and its base has adapters of the kind {served}, which "
                "cannot share a worker with it",
                "Write `options: {path: auto}` beside its `adapter:`, which gives it a worker of its own, or merge "
                "it into its base.",
            )

    def _rest(self) -> None:
        """After a change of the set no adapter is on, whatever peft has made of it."""
        self._active = None
        self._changes += 1
        self.mixed = self._mix and (self._peft is None or route(self._model, self._routing))
        if self._peft is not None:
            self._peft.base_model.disable_adapter_layers()

    def _failed(self, path: str, name: str, error: Exception) -> LoadError:
        """Takes back what peft had done before it failed, so that base and other adapters are as before."""
        if self._names:
            if name in self._peft.peft_config:
                self._peft.delete_adapter(name)
        else:
            self._strip()
        self._rest()
        return _meaning(path, error)

    def _strip(self) -> None:
        """Puts the base's own layers back in the place of peft's: the base is as fast as before."""
        self._peft = None
        for name, module in list(self._model.named_modules()):
            own = getattr(module, "base_layer", None) or getattr(module, "original_module", None)
            if own is not None:
                parent, _, child = name.rpartition(".")
                setattr(self._model.get_submodule(parent), child, own)
        if hasattr(self._model, "peft_config"):
            del self._model.peft_config


def _meaning(path: str, error: Exception) -> LoadError:
    """What an error of peft's means."""
    if isinstance(error, LoadError):
        return error
    text = str(error)
    code, hint = "load_failed", "Was it trained on this base model?"
    if "size mismatch" in text or "not found in the base" in text:
        code = "adapter_mismatch"
    elif isinstance(error, ImportError):
        code, hint = "package_missing", "Add the package it names to the packages of the model's environment."
    elif "weights_only" in text.lower():
        code = "pickled_weights"
        hint = (
            "torch reads no code from pickles, not even with `allow_pickle`. Save it as safetensors where you trust it."
        )
    first = next((line for line in text.splitlines() if line.strip()), "")
    return LoadError(code, f"the adapter {path} cannot be loaded: {type(error).__name__}: {first}", hint)


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
    tensors = _tensors(path, allow_pickle)
    _check_reads(path, files.read_json(os.path.join(path, _CONFIG)), model)
    _check_kind(path, files.read_json(os.path.join(path, _CONFIG)))
    _check_pairs(path, [tensor.name for tensor in tensors])
    for tensor in tensors:
        _check_tensor(path, tensor, model)


def _tensors(path: str, allow_pickle: bool) -> list[files.Tensor]:
    """Of a complete adapter, else LoadError; none of a pickle."""
    weights = _files(path, allow_pickle)
    return files.tensors(weights) if weights.endswith(_WEIGHTS) else []


def _check_pairs(path: str, names: list[str]) -> None:
    """LoadError where half of a low-rank change is missing: peft would take zeros for it, or chance."""
    missing = missing_halves(names)
    if missing:
        raise LoadError(
            "adapter_incomplete",
            f"the adapter {path} lacks {len(missing)} tensors, such as {missing[0]}",
            "Copy it again, or save it again with save_pretrained of the PEFT model.",
        )


def missing_halves(names: Iterable[str]) -> list[str]:
    """Tensors of low-rank changes that are not there, while their other halves are."""
    there, wanted = set(names), set()
    for name in there:
        for half, other in _HALVES.items():
            if half in name:
                wanted.add(name.replace(half, other))
                break
    return sorted(wanted - there)


def _kind(settings: Mapping[str, Any]) -> str:
    told = settings.get("peft_type", _FIRST)
    return str(getattr(told, "value", told)).upper()


def _kind_among(paths: Iterable[str]) -> str:
    """The kind that is served where these are configured; empty for any. What cannot be read does not count."""
    kinds = set()
    for path in paths:
        with contextlib.suppress(OSError, ValueError, LoadError):
            kinds.add(_kind(files.read_json(os.path.join(path, _CONFIG))))
    known = kinds.intersection(_INJECTED)
    return _FIRST if _FIRST in known else min(known, default="")


def _check_kind(path: str, settings: dict[str, Any]) -> None:
    """LoadError where such an adapter cannot share its base with others, or would change it for them."""
    kind = _kind(settings)
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
        settings = files.read_json(os.path.join(path, _CONFIG))
    except LoadError:
        return False
    return _nature(settings) in _READING or bool(settings.get("modules_to_save"))


def _nature(settings: dict[str, Any]) -> str:
    return "DoRA" if settings.get("use_dora") else _kind(settings)


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
    if _WEIGHTS in names and _CONFIG in names:
        return os.path.join(path, _WEIGHTS)
    if _WEIGHTS not in names and allow_pickle and {_PICKLED, _CONFIG} <= names:
        return os.path.join(path, _PICKLED)
    if _WEIGHTS not in names:
        files.refuse_pickled(path, _WEIGHTS)
    missing = _WEIGHTS if _WEIGHTS not in names else _CONFIG
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
