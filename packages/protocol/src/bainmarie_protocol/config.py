"""What the gateway tells a worker before it starts: one JSON line on stdin."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class ServedModel:
    """One model name that a worker answers to: its base, or an adapter on it."""

    name: str
    adapter: str | None = None
    """Directory of a PEFT adapter; None serves the base itself."""
    prompt: str = "chat"
    """`chat`: through the chat template. `plain`: the messages' text alone, for base models."""
    system_prompt: str | None = None
    """Used when a chat request brings no system message of its own."""
    chat_template: str | None = None
    """In place of the adapter's or the model's own: the template itself, or the absolute path of a file with it."""


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a worker needs to hold one base model.

    `socket` is a unix socket path that the worker creates with mode 0600. Where it is empty (Windows) the worker binds
    a free loopback port and says which in `Listening`; every request then carries `Authorization: Bearer <token>`.
    """

    name: str
    """The worker's name in logs and messages: the first model name served."""
    engine: str
    """`transformers` or `fake`."""
    model: str
    """Directory of the base model, or its hub id."""
    models: tuple[ServedModel, ...]
    """Every name this worker may be asked for when it starts. Adapters are loaded when first asked for."""
    socket: str = ""
    token: str = ""
    base: str | None = None
    """Directory or hub id whose config.json and tokenizer complete a `model` that has none of its own."""
    quantization: str = "none"
    """none | int8 | int4 | nf4 | fp4"""
    dtype: str = "auto"
    """`auto` is the checkpoint's own; else float32 | float16 | bfloat16."""
    device: str = "auto"
    """`auto` takes an accelerator if there is one; else cpu | cuda | cuda:N | mps."""
    device_map: str | None = None
    """auto | balanced | balanced_low_0 | sequential: over several accelerators; None puts all on `device`."""
    allow_pickle: bool = False
    """Weights may be read from pickles where there are no safetensors; torch's weights_only reading runs no code."""
    trust_remote_code: bool = False
    context: int | None = None
    """Tokens of prompt and answer together; None takes the model's own limit."""
    shares_weights: bool = False
    """Another worker may map the same checkpoint: memory is to hold it once."""
    queue: int = 1024
    """Requests that may wait for the engine before further ones get a 503."""
    options: dict[str, object] = field(default_factory=dict)
    """Settings of one engine alone; the `fake` engine's faults live here."""

    def to_json(self) -> str:
        """One line without line breaks."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(line: str) -> WorkerConfig:
        """The inverse of `to_json`. Unknown keys are an error: both sides come from one release."""
        data = json.loads(line)
        models = tuple(ServedModel(**m) for m in data.pop("models"))
        return WorkerConfig(models=models, **data)
