"""What a checkpoint says about its use: the longest sequence, how to sample, which tokens end an answer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from bainmarie_protocol import WorkerConfig
from bainmarie_worker.errors import LoadError

_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""Names under which architectures keep the longest sequence they know."""
_STRETCHING = ("yarn", "linear", "llama3", "longrope", "dynamic")
"""Kinds of rotary positions with which a `factor` makes the known length longer."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def auto_class(settings: dict[str, Any]) -> Any:
    """transformers' class that makes the model of a config.json: a causal language model; where its type has none, one
    that also reads images, whose text part is used. LoadError `architecture_unknown` for encoder-decoder models."""
    import transformers
    from transformers.models.auto import modeling_auto

    kind = settings.get("model_type")
    one_part = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not settings.get("is_encoder_decoder")
    if kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and not one_part:
        raise LoadError(
            "architecture_unknown",
            f"model_type {kind!r} is an encoder-decoder model; such models are not served",
            "Use a model that continues a text by itself (a causal language model), or a server for it with "
            "`engine: command`.",
        )
    seeing = getattr(modeling_auto, "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", {})
    if kind in seeing and kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not settings.get("auto_map"):
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def context_of(config: WorkerConfig, settings: Any) -> int | None:
    """The longest sequence: the configuration's, else the model's. LoadError if the wish is more than the model has."""
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    named = next((int(value) for name in _LIMITS if (value := getattr(text, name, None))), None)
    if named is None:
        return config.context
    own, most = _scaled(text, named)
    if config.context is not None and config.context > most:
        raise LoadError(
            "load_failed",
            f"context {config.context} is more than the {most} tokens that {config.model} knows",
            f"Set `context` to {most} or less.",
        )
    return config.context or own


def _scaled(settings: Any, named: int) -> tuple[int, int]:
    """What the model takes by itself and at most, where its configuration names so many tokens and scales positions.

    The named length is the scaled one in some checkpoints and the one before in others (Qwen: 40960, scaled by 4 from
    32768 to 131072). Where the one before is told, the longer of both counts. Where it is not, yarn counts from the
    named one, as transformers does; with linear and dynamic the named one stays unless the user wishes more.
    """
    rope = getattr(settings, "rope_parameters", None) or getattr(settings, "rope_scaling", None)
    rope = rope if isinstance(rope, dict) else {}
    kind, factor = rope.get("rope_type") or rope.get("type"), rope.get("factor")
    if kind not in _STRETCHING or not isinstance(factor, (int, float)):
        return named, named
    original = rope.get("original_max_position_embeddings")
    if original or kind == "yarn":
        own = max(named, int((original or named) * factor))
        return own, own
    return named, max(named, int(named * factor)) if kind in ("linear", "dynamic") else named


def sampling_of(generation: Any) -> dict[str, Any]:
    """Sampling as the checkpoint's generation_config wishes it; greedy where it says nothing."""
    if not generation.do_sample:
        penalty = getattr(generation, "repetition_penalty", None)
        return {"repetition_penalty": penalty} if penalty not in (None, 1.0) else {}
    values = {name: getattr(generation, name, None) for name in _SAMPLING}
    return {"temperature": 1.0, **{name: value for name, value in values.items() if value is not None}}


def generation_config(settings: Any, *directories: str) -> Any:
    """End tokens and sampling from the first directory that has generation_config.json, else from config.json."""
    from transformers import GenerationConfig

    for directory in directories:
        if os.path.isfile(os.path.join(directory, "generation_config.json")):
            return GenerationConfig.from_pretrained(directory, local_files_only=True)
    return GenerationConfig.from_model_config(settings)


def vocabulary_of(model: Any) -> int | None:
    """Tokens that the model gives a logit each: those of its output layer, else of its configuration."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    settings = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return getattr(head, "out_features", None) or getattr(settings, "vocab_size", None)


def end_ids(generation: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: the generation_config's, else the tokenizer's end token."""
    return frozenset(_ids(generation.eos_token_id) or _ids(tokenizer.eos_token_id))


def _ids(value: int | Iterable[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else [int(v) for v in value]
