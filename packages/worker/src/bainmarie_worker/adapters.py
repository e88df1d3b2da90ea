"""PEFT adapters on the one base model: judged, loaded when first asked for, switched, dropped.

The base's weights are never copied. A base request runs with every adapter off; an adapter's request with its own
alone. Adapters are known by their directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

from bainmarie_protocol import Progress
from bainmarie_worker import files
from bainmarie_worker.adapter_fit import CONFIG, check, kind_among, kind_of, tensors_of
from bainmarie_worker.adapter_settings import refuse_unknown
from bainmarie_worker.brought_along import base_kept
from bainmarie_worker.engine.engine import Report
from bainmarie_worker.engine.lora import Routing, Weights, route, weights_of
from bainmarie_worker.engine.sequence import Adapter
from bainmarie_worker.errors import LoadError


class Adapters:
    """All adapters of one base model. For the engine's thread only."""

    def __init__(
        self, model: Any, mix: bool = False, allow_pickle: bool = False, configured: Iterable[str] = ()
    ) -> None:
        """With `mix`, adapters that can be are made ready to share a pass (see `mixed`). Those that are `configured`
        say which kind is served, whatever is asked for first: LoRA if there is one, else the first kind by name. Where
        none is, it is that of the one that is loaded first, until all are unloaded."""
        self._kind = kind_among(configured)
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
        settings = files.read_json(os.path.join(path, CONFIG))
        self._refuse_otherkind_of(path, kind_of(settings))
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
            with base_kept(path, tensors_of(path, self._allow_pickle), self._model):
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

    def _refuse_otherkind_of(self, path: str, kind: str) -> None:
        held = [kind_of(vars(one)) for one in self._peft.peft_config.values()] if self._names else []
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
