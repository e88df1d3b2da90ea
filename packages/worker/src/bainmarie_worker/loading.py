"""From a name to a model in memory: find, judge, import, load, pack.

Runs on the engine's thread, which is the first to import torch. Every failure is a `LoadError` with a stable code:
model_not_found, model_incomplete, pickled_weights, architecture_unknown, remote_code, package_missing,
device_unavailable, quantization, out_of_memory, load_failed.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import Any

from bainmarie_protocol import Progress, WorkerConfig
from bainmarie_worker import chat_templates, devices, files, hub, quantization, rotary
from bainmarie_worker.consent import check_architecture, same_consent_for_parts
from bainmarie_worker.engine.engine import Report
from bainmarie_worker.errors import LoadError
from bainmarie_worker.failures import classified, is_out_of_memory
from bainmarie_worker.limits import library_limits
from bainmarie_worker.model_settings import (
    auto_class,
    context_of,
    end_ids,
    generation_config,
    sampling_of,
    vocabulary_of,
)
from bainmarie_worker.packages import need
from bainmarie_worker.prefault import prefault
from bainmarie_worker.tokenizer import TransformersTokenizer
from bainmarie_worker.tokenizer_loading import has_tokenizer, load_tokenizer, with_tokenizer
from bainmarie_worker.weights import weights_progress

__all__ = ["Loaded", "is_out_of_memory", "load"]


@dataclass(frozen=True)
class Loaded:
    """A model in memory, ready for its first forward pass."""

    model: Any
    tokenizer: TransformersTokenizer
    device: Any
    """Where token ids must be."""
    context: int | None
    defaults: dict[str, Any]
    end_ids: frozenset[int]
    info: dict[str, object]
    vocabulary: int | None = None
    """Tokens that the model gives a logit each."""
    packed: bool = False
    """Linear layers are `packed_linear`'s: whoever prepacks linear layers must leave those alone."""
    allow_pickle: bool = False
    """Adapters may be read from pickles too."""


@dataclass(frozen=True)
class _Source:
    """Where the parts of the model lie."""

    weights: str
    """Directory of the weights."""
    paths: list[str]
    """The weight files."""
    described: str
    """Directory of config.json: the same, or the base's."""
    settings: dict[str, Any]
    """config.json."""
    translated: bool = False
    """`settings` are not the file's, but what they mean to this release of transformers."""


def load(config: WorkerConfig, report: Report) -> Loaded:
    """Loads the base model of `config`. Never falls back: a device or quantization that is not there is an error.

    What the files can tell is judged first, before seconds go into imports.
    """
    source = _find(config, report)
    report(Progress("imports", detail="torch, transformers"))
    torch = need("torch")
    transformers = need("transformers")
    gc.freeze()  # what was imported stays: no full collection need look through it
    devices.set_threads(torch)
    report(Progress("config"))
    check_architecture(config, source.settings, transformers)
    source = _for_this_release(config, source, transformers)
    device = devices.device_for(torch, config.device)
    plan = quantization.plan(config, source.settings, device)
    place = with_tokenizer(_tokenizer_places(source), config.trust_remote_code)
    try:
        model = _load_weights(config, source, device, plan, report)
        if plan.pack_bits is None and not plan.regroup:
            prefault(model)
        tokenizer = load_tokenizer(place, config.trust_remote_code)  # meanwhile
    except LoadError:
        raise
    except Exception as error:
        raise classified(error, config) from error
    if plan.options is not None:
        quantization.check_loaded(model, config)
    held = plan.name
    if plan.pack_bits is not None:
        held = quantization.pack(model, plan.pack_bits, config, report)
    elif plan.regroup:
        held = quantization.regroup(model, plan, source.paths, config, report)
    model.eval()
    device = devices.first_device(model, device)
    context = context_of(config, model.config)
    return Loaded(
        model=model,
        tokenizer=TransformersTokenizer(
            tokenizer, _template(source, tokenizer), directory=source.weights, trust=config.trust_remote_code
        ),
        device=device,
        context=context,
        defaults=sampling_of(model.generation_config),
        end_ids=end_ids(model.generation_config, tokenizer),
        vocabulary=vocabulary_of(model),
        packed=plan.pack_bits is not None or plan.regroup,
        allow_pickle=config.allow_pickle,
        info={
            "engine": "transformers",
            "device": str(device),
            "dtype": str(model.dtype).replace("torch.", ""),
            "quantization": held,
            "context": context,
            "parameters": model.num_parameters(),
            "architecture": type(model).__name__,
            "path": source.weights,
            "limits": library_limits() + [rotary.remark(transformers.__version__)] * source.translated,
        },
    )


def _find(config: WorkerConfig, report: Report) -> _Source:
    weights = hub.locate(config.model, report, allow_pickle=config.allow_pickle)
    base = hub.locate(config.base, report, weights=False) if config.base else None
    described = files.config_directory(weights, base)
    paths = files.weight_files(weights, config.allow_pickle)
    return _Source(weights, paths, described, files.model_config(described))


def _for_this_release(config: WorkerConfig, source: _Source, transformers: Any) -> _Source:
    from transformers import modeling_rope_utils

    own_code = config.trust_remote_code and source.settings.get("auto_map")
    if own_code or hasattr(modeling_rope_utils, "RotaryEmbeddingConfigMixin"):
        return source
    read = rotary.for_earlier(source.settings, transformers.CONFIG_MAPPING, transformers.__version__)
    return source if read is None else replace(source, settings=read, translated=True)


def _tokenizer_places(source: _Source) -> list[str]:
    return list(dict.fromkeys((source.weights, source.described)))


def _template(source: _Source, tokenizer: Any) -> str | None:
    """The chat template from a file of the model, where its tokenizer does not bring it: a tokenizer of the base's has
    another, and older versions of transformers do not look for such a file."""
    own = chat_templates.of_directory(source.weights)
    if own and not has_tokenizer(source.weights):
        return own
    if getattr(tokenizer, "chat_template", None):
        return None
    return own or chat_templates.of_directory(source.described)


def _load_weights(config: WorkerConfig, source: _Source, device: Any, plan: quantization.Plan, report: Report) -> Any:
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel

    trust = {"trust_remote_code": config.trust_remote_code, "local_files_only": True}
    options = {**devices.dtype_option(torch, config.dtype), **devices.placement(config, device, plan.placed)}
    if plan.options is not None:
        options["quantization_config"] = plan.options
    if source.translated:
        options["config"] = CONFIG_MAPPING[source.settings["model_type"]].from_dict(source.settings)
    if source.described != source.weights:
        options.setdefault("config", AutoConfig.from_pretrained(source.described, **trust))
        options["generation_config"] = generation_config(options["config"], source.weights, source.described)
    if plan.regroup:
        options.setdefault("config", AutoConfig.from_pretrained(source.described, **trust))
        options["config"].quantization_config["dequantize"] = True
    if plan.options is None and not source.settings.get("quantization_config"):
        options["ignore_mismatched_sizes"] = True  # they are refused below, by their names
    pickled = source.paths[0].endswith(".bin")
    with weights_progress(source.paths, report), same_consent_for_parts(config.trust_remote_code, source.described):
        model, outcome = auto_class(source.settings).from_pretrained(
            source.weights,
            use_safetensors=not pickled,
            output_loading_info=True,
            **devices.code_free_option(PreTrainedModel),
            **trust,
            **options,
        )
    _check_complete(model, outcome, source)
    return model


def _check_complete(model: Any, outcome: dict[str, Any], source: _Source) -> None:
    others = sorted(outcome.get("mismatched_keys") or (), key=lambda entry: entry[0])
    if others:
        name, there, wanted = others[0]
        more = f", and {len(others) - 1} more" if len(others) > 1 else ""
        raise LoadError(
            "model_incomplete",
            f"{source.weights} has weights of other sizes than its config.json says: {name} is {list(there)} and "
            f"should be {list(wanted)}{more}",
            "config.json belongs to another model, or the weights do: copy both from the same place.",
        )
    missing = sorted(outcome["missing_keys"])
    if missing:
        raise LoadError(
            "model_incomplete",
            f"{source.weights} lacks {len(missing)} tensors of {type(model).__name__}, such as {missing[0]}",
            "The weights belong to another architecture, or the checkpoint was saved without them.",
        )
