"""Which tokenizer a model has: its own files, else its base's; the fast kind, else the slow one."""

from __future__ import annotations

import json
import os
from typing import Any

from bainmarie_worker.errors import LoadError

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""One of these, or one that ends like `_ENDINGS`, is in every directory whose tokenizer has a vocabulary."""
_OF_5 = "TokenizersBackend"
"""What transformers 5 calls the class that reads tokenizer.json alone; PreTrainedTokenizerFast before."""
_ENDINGS = (".tiktoken", ".bpe.model", "tekken.json")


def has_tokenizer(directory: str) -> bool:
    """Whether the directory brings a tokenizer of its own; a mere tokenizer_config.json is none."""
    names = set(os.listdir(directory))
    return bool(names & set(_FILES)) or any(n.endswith(_ENDINGS) for n in names)


def load_tokenizer(directory: str, trust_remote_code: bool) -> Any:
    """The directory's tokenizer. A missing pad token becomes the end token."""
    return _padded(_load(directory, trust_remote_code))


def with_tokenizer(directories: list[str], trust_remote_code: bool) -> str:
    """The first of the directories that has a tokenizer, or the last where the model's own code may know of one.

    LoadError `model_incomplete` where none has one.
    """
    for directory in directories:
        if has_tokenizer(directory) or _needs_no_files(directory):
            return directory
    if trust_remote_code:
        return directories[-1]
    raise LoadError(
        "model_incomplete",
        f"{' and '.join(directories)} {'have' if len(directories) > 1 else 'has'} no tokenizer: none of "
        f"{', '.join(_FILES)} is there",
        "Copy the tokenizer's files from the model that it was trained from, or name that model with `base:`.",
    )


def special_tokens(directory: str) -> dict[str, Any]:
    """What the directory's tokenizer_config.json says of begin and end, beside the tokens that tokenizer.json has."""
    settings = _settings(directory)
    if not settings:
        return {}
    values = {name: settings.get(name) for name in ("bos_token", "eos_token", "add_bos_token", "add_eos_token")}
    return {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}


def _load(directory: str, trust_remote_code: bool) -> Any:
    """The fast tokenizer; the slow one where no fast one can be made of the files."""
    import transformers
    from transformers import AutoTokenizer

    settings = _settings(directory)
    if settings.get("tokenizer_class") == _OF_5 and not hasattr(transformers, _OF_5):
        return transformers.PreTrainedTokenizerFast.from_pretrained(
            directory, local_files_only=True, **_as_earlier(settings)
        )
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        return AutoTokenizer.from_pretrained(directory, **options)
    except (ValueError, OSError, AttributeError, KeyError, TypeError) as fast:
        try:
            return AutoTokenizer.from_pretrained(directory, use_fast=False, **options)
        except Exception:  # noqa: BLE001 - the fast tokenizer's error is the one that explains
            raise fast from None


def _needs_no_files(directory: str) -> bool:
    """Whether tokenizer_config.json names a class that knows its vocabulary by itself, such as that of bytes."""
    import transformers

    kind = getattr(transformers, str(_settings(directory).get("tokenizer_class")), None)
    return kind is not None and getattr(kind, "vocab_files_names", None) == {}


def _as_earlier(settings: dict[str, Any]) -> dict[str, Any]:
    """What transformers 5 writes under a name that means something else before it."""
    extra = settings.get("extra_special_tokens")
    return {"extra_special_tokens": {}, "additional_special_tokens": extra} if isinstance(extra, list) else {}


def _settings(directory: str) -> dict[str, Any]:
    """tokenizer_config.json; empty where none can be read."""
    try:
        with open(os.path.join(directory, "tokenizer_config.json"), encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _padded(tokenizer: Any) -> Any:
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
