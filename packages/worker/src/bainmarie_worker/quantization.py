"""How weights are held in fewer bits: by the checkpoint itself, by bitsandbytes while loading, or packed afterwards.

What cannot be done raises LoadError `quantization` or `package_missing`; nothing is ever loaded in 16 bits instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bainmarie_protocol import Progress, WorkerConfig
from bainmarie_worker import stored_groups
from bainmarie_worker.engine.engine import Report
from bainmarie_worker.errors import LoadError
from bainmarie_worker.packages import need

_BITS = {"int8": 8, "int4": 4}
_LEAST_SHARE = 0.5
"""Of a model's weights: a model that keeps more than the rest in 16 bits is not what was asked for."""
_READERS = {
    "gptq": "gptqmodel and optimum",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed-tensors",
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "quanto": "optimum-quanto",
    "fp8": "kernels",
    "mxfp4": "kernels",
}
"""Packages that read checkpoints of each quant_method."""


@dataclass(frozen=True)
class Plan:
    """What to do about quantization in one load."""

    name: str
    """As it is told in the model's info: none, nf4, gptq, ..."""
    options: Any = None
    """transformers' quantization settings, or None."""
    pack_bits: int | None = None
    """Bits into which linear layers are packed after the load, on the CPU."""
    stored: bool = False
    """The checkpoint is quantized already."""
    regroup: bool = False
    """The checkpoint's groups of 4 bits are packed again after the load, on the CPU."""

    @property
    def placed(self) -> bool:
        """Whether transformers must put the weights where they shall be while it loads them."""
        return self.options is not None or self.stored


def plan(config: WorkerConfig, settings: dict[str, Any], device: Any) -> Plan:
    """Decides before any weights load. `settings` is config.json."""
    stored = settings.get("quantization_config")
    if stored:
        return _stored(config, stored, device)
    if config.quantization == "none":
        return Plan("none")
    bits = _BITS.get(config.quantization)
    if bits is not None and device.type == "cpu":
        return Plan(config.quantization, pack_bits=bits)
    if config.quantization == "int4" or device.type == "mps":
        raise LoadError(
            "quantization",
            f"{config.quantization} cannot be computed on {device}",
            "Set `quantization: nf4`, or `device: cpu`." if device.type == "cuda" else "Set `quantization: none`.",
        )
    return Plan(config.quantization, options=_bitsandbytes(config))


def pack(model: Any, bits: int, config: WorkerConfig, report: Report) -> str:
    """Packs the loaded model's linear layers; what was done, in words. LoadError where most of it cannot be packed."""
    from bainmarie_worker import packed_linear

    everything = model.num_parameters()
    embeddings = model.get_input_embeddings().weight.numel()
    packed = packed_linear.pack(
        model, bits, lambda done, total: report(Progress("pack", done, total, "layers", config.quantization))
    )
    _check_share(config.quantization, packed, everything, everything - embeddings, model)
    return f"int{bits} (weight-only, {packed:,} parameters)"


def regroup(model: Any, plan: Plan, paths: list[str], config: WorkerConfig, report: Report) -> str:
    """Packs what the checkpoint holds in groups of 4 bits; what was done, in words. LoadError where most stay whole."""
    everything = model.num_parameters()
    ends = {id(layer.weight): layer.weight.numel() for layer in _ends(model)}
    packed = stored_groups.repack(model, paths, report)
    _check_share(plan.name, packed, everything, everything - sum(ends.values()), model)
    return f"{plan.name} (int4, {packed:,} parameters)"


def check_loaded(model: Any, config: WorkerConfig) -> None:
    """LoadError where bitsandbytes has left most of the loaded model in 16 bits: it only knows linear layers, and the
    experts of a mixture may be one tensor. Embeddings and the output layer, which it never takes, do not count."""
    import torch

    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    held = sum(layer.in_features * layer.out_features for layer in linear if not layer.weight.is_floating_point())
    everything = model.num_parameters()
    ends = {id(layer.weight): layer.weight.numel() for layer in _ends(model)}
    _check_share(config.quantization, held, everything, everything - sum(ends.values()), model)


def _ends(model: Any) -> list[Any]:
    """Embeddings and output layer."""
    found = (model.get_input_embeddings(), model.get_output_embeddings())
    return [layer for layer in found if layer is not None]


def _check_share(name: str, held: int, everything: int, wanted: int, model: Any) -> None:
    if held < _LEAST_SHARE * wanted:
        raise LoadError(
            "quantization",
            f"{name} reaches only {held:,} of {everything:,} parameters of {type(model).__name__}: "
            "the others are not in plain linear layers of a fitting size",
            "Set `quantization: none`, or take a checkpoint that is quantized already.",
        )


def _stored(config: WorkerConfig, stored: dict[str, Any], device: Any) -> Plan:
    method = str(stored.get("quant_method") or "")
    if not method and (stored.get("load_in_4bit") or stored.get("load_in_8bit")):
        method = "bitsandbytes"
    if config.quantization != "none":
        raise LoadError(
            "quantization",
            f"{config.model} is quantized already ({method or 'unknown'}): {config.quantization} cannot be put on top",
            "Set `quantization: none`.",
        )
    regroup = stored_groups.fits(stored, device) and not stored.get("dequantize")
    _check_stored(config, {**stored, "dequantize": True} if regroup else stored, method, device)
    return Plan(method or "unknown", stored=True, regroup=regroup)


def _check_stored(config: WorkerConfig, stored: dict[str, Any], method: str, device: Any) -> None:
    """Asks transformers' own reader whether it can work here, before gigabytes are read."""
    from transformers.quantizers.auto import AutoHfQuantizer

    try:
        quantizer = AutoHfQuantizer.from_config(dict(stored), pre_quantized=True)
        quantizer.validate_environment(device_map={"": str(device)}, weights_only=True)
    except ImportError as error:
        packages = _READERS.get(method, "the package that it names")
        raise LoadError(
            "package_missing",
            f"{config.model} is quantized with {method}, which cannot be read: {error}",
            f"Add {packages} to the packages of the model's environment.",
        ) from error
    except Exception as error:  # each method has its own complaints, all of them mean that it cannot work here
        raise LoadError(
            "quantization",
            f"{config.model} is quantized with {method or 'no method'}, which cannot be computed on {device}: {error}",
            "Use another device, or a checkpoint that is not quantized.",
        ) from error
    if not stored.get("dequantize") and (
        getattr(quantizer.quantization_config, "dequantize", False) or _unpacks_at_first_pass(quantizer)
    ):
        raise LoadError(
            "quantization",
            f"{config.model} is quantized with {method}, and on {device} transformers would make 16-bit weights of it",
            "Use a device that computes it, or take a checkpoint that is not quantized. If 16 bits are what you want, "
            'write "dequantize": true into the quantization_config of its config.json.',
        )


def _unpacks_at_first_pass(quantizer: Any) -> bool:
    """compressed-tensors, since transformers 5.x: what no FP8 kernel computes is unpacked for good by the first pass.
    Before, each layer was unpacked in every pass, and kept as it was."""
    return getattr(quantizer, "use_fp8_kernel", None) is False


def _bitsandbytes(config: WorkerConfig) -> Any:
    need("bitsandbytes", f"`quantization: {config.quantization}`")
    import torch
    from transformers import BitsAndBytesConfig

    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if config.dtype == "auto" else getattr(torch, config.dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=config.quantization, bnb_4bit_compute_dtype=compute
    )
