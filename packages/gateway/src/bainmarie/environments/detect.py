"""What a folder, file or hub id is, and the configuration entry that would be right for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.checkpoint import is_training_checkpoint
from bainmarie.environments.families import first_release
from bainmarie.environments.model_files import is_hub_id, read_json
from bainmarie.environments.training_folders import lacks_config, named_bases, resolved
from bainmarie.errors import BadRequest

_MERGED = ("mergekit_config.yml", "merge_config.yaml", "merged_from.json")
_CONFIGS = ("config.json", "adapter_config.json")
_NUMBER = re.compile(r"\d+")

Entry = Mapping[str, object]


@dataclass(frozen=True)
class Detected:
    """`kind`: base | adapter | merged | quantized | gguf | hub."""

    kind: str
    text: str
    """What it is, for people."""
    entry: Entry
    """Keys of a model in the configuration; paths are absolute."""
    remarks: Sequence[str] = ()
    """What the user should know or do."""


def detect(named: str, base: str | None = None) -> Detected:
    """`base` overrides the base that an adapter names. BadRequest where it is nothing that can be served."""
    path = Path(named).expanduser().absolute()
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path, base)
    if is_hub_id(named):
        return Detected("hub", f"a hub id; nothing is here under that name ({path})", {"model": named})
    raise BadRequest(f"{path} does not exist", hint="Give a folder, a .gguf file or a hub id.", code="not_a_model")


def _file(path: Path) -> Detected:
    if path.suffix == ".gguf":
        return _gguf(path)
    raise BadRequest(f"{path} is a file", hint=f"Give its folder: {path.parent}", code="not_a_model")


def _folder(path: Path, base: str | None) -> Detected:
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return _adapter(path, base, "")
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return _model(path)
    if found := _of_training(path):
        what = "a training checkpoint" if found == path.parent else "the folder of a training run"
        if (found / "adapter_config.json").is_file():
            return _adapter(found, base, f"{what}; the adapter lies in {found}")
        return _model(found, f"{what}; the model lies in {found}: ")
    if gguf := sorted(path.glob("*.gguf")):
        return _gguf(gguf[0])
    if (path / "config.json").is_file():
        return _model(path)
    if lacks_config(path):
        return _merge_without_config(path, base)
    if inner := sorted(folder.parent for folder in path.glob("*/*config.json") if folder.name in _CONFIGS):
        raise BadRequest(
            f"{path} is no model, but holds {', '.join(each.name for each in dict.fromkeys(inner))}",
            hint=f"Give the folder itself: {inner[0]}",
            code="not_a_model",
        )
    names = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
    raise BadRequest(
        f"{path} is no model: it has neither config.json nor adapter_config.json; found there: {names}",
        hint="Give a folder that `save_pretrained` wrote.",
        code="not_a_model",
    )


def _merge_without_config(path: Path, base: str | None) -> Detected:
    """Weights alone, as some trainers leave them: config.json and tokenizer come from the base."""
    completed = base or resolved(ModelSpec("m", model=str(path))).base
    if not completed:
        raise BadRequest(
            f"{path} holds weights without config.json, and does not name the model that they were trained from",
            hint="Say it: --base PATH|ID",
            code="no_base",
        )
    there = Path(completed).expanduser()
    named = str(there.absolute()) if there.is_dir() else completed
    text = f"the weights of a model without config.json, completed by {named}"
    return Detected("merged", text, {"model": str(path), "base": named})


def _of_training(path: Path) -> Path | None:
    """Where a trainer left what can be served: the parent of a bare checkpoint, or the newest checkpoint below."""
    if is_training_checkpoint(path) and any(
        (path.parent / name).is_file() for name in ("adapter_config.json", "config.json")
    ):
        return path.parent
    inside = [
        folder
        for folder in path.glob("checkpoint-*")
        if (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file()
    ]
    return max(inside, key=lambda folder: [int(number) for number in _NUMBER.findall(folder.name)], default=None)


def _adapter(path: Path, base: str | None, how: str) -> Detected:
    settings = _settings(path / "adapter_config.json")
    names = [base] if base else list(named_bases(path))
    if not names:
        raise BadRequest(f"the adapter {path} does not name its base", hint="Say it: --base PATH|ID", code="no_base")
    for name in names:
        there = Path(name).expanduser()
        for folder in (Path.cwd(), path, *list(path.parents)[:3]):
            if (folder / there).is_dir():
                return _adapter_on(path, os.path.normpath(folder / there), settings, how)
        if is_hub_id(name):
            return _adapter_on(path, name, settings, how)
    text = f"the adapter {path} was trained on {names[0]}, which is not on this machine"
    raise BadRequest(text, hint="Say where its base is: --base PATH|ID", code="no_base")


def _adapter_on(path: Path, base: str, settings: Mapping[str, object], how: str) -> Detected:
    kind = str(settings.get("peft_type") or "PEFT")
    text = f"{how or 'an adapter'} ({kind}) on {base}"
    return Detected("adapter", text, {"model": base, "adapter": str(path)})


def _model(path: Path, how: str = "") -> Detected:
    config = _settings(path / "config.json")
    if config.get("is_encoder_decoder"):
        raise BadRequest(
            f"{path} is an encoder-decoder model ({config.get('model_type')}); such models are not served",
            hint="Use a model that continues a text by itself (a causal language model).",
            code="not_a_model",
        )
    family = str(config.get("model_type") or "unknown")
    entry: dict[str, object] = {"model": str(path)}
    remarks = []
    quantized = config.get("quantization_config")
    kind, text = "base", f"a model of the family {family}"
    if isinstance(quantized, dict):
        kind, text = "quantized", f"{text}, quantized with {quantized.get('quant_method') or 'bitsandbytes'}"
    elif any((path / name).exists() for name in _MERGED) or "merged" in path.name.lower():
        kind, text = "merged", f"a merged model of the family {family}"
    if not _has_chat_template(path):
        entry["prompt"] = "plain"
        remarks.append("It has no chat template: `prompt: plain` joins the texts of the messages.")
    if not any(path.glob("*.safetensors")) and any(path.glob("pytorch_model*.bin")):
        remarks.append(
            "Its weights are a pickle, which can run code when it is opened. If you trust it: allow_pickle: true"
        )
    if "auto_map" in config and not first_release(family):
        remarks.append("Only its own Python code knows this family. If you trust that code: trust_remote_code: true")
    return Detected(kind, how + text, entry, tuple(remarks))


def _settings(file: Path) -> Mapping[str, object]:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"{file} cannot be read: {error}", hint="Copy or download it again.", code="not_a_model"
        ) from error


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    try:
        return bool(read_json(path / "tokenizer_config.json").get("chat_template"))
    except ValueError:
        return False


def _gguf(path: Path) -> Detected:
    command = ["llama-server", "--model", str(path), "--host", "127.0.0.1", "--port", "{port}"]
    remark = "The transformers engine does not read GGUF: the entry starts llama-server, which must be on PATH."
    return Detected("gguf", "a GGUF file", {"engine": "command", "command": command, "health": "/health"}, (remark,))
