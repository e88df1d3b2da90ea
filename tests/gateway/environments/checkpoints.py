"""Makes model and adapter directories with true safetensors headers and empty tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "transformers_version": "4.46.0"}


def write_safetensors(path: Path, shapes: Shapes) -> Path:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * end)
    return path


def llama_shapes(hidden: int = 8, layers: int = 2) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (16, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (hidden, hidden)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (hidden, 2 * hidden)
    return shapes


def make_model(path: Path, config: Mapping[str, object] = LLAMA, shapes: Shapes | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    write_safetensors(path / "model.safetensors", llama_shapes() if shapes is None else shapes)
    return path


def lora_shapes(hidden: int = 8, layers: int = 2, target: str = "self_attn.q_proj") -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        prefix = f"base_model.model.model.layers.{layer}.{target}"
        shapes[f"{prefix}.lora_A.weight"] = (4, hidden)
        shapes[f"{prefix}.lora_B.weight"] = (hidden, 4)
    return shapes


def make_adapter(path: Path, shapes: Shapes | None = None, **settings: object) -> Path:
    path.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4, "peft_version": "0.17.0", **settings}
    (path / "adapter_config.json").write_text(json.dumps(config))
    write_safetensors(path / "adapter_model.safetensors", lora_shapes() if shapes is None else shapes)
    return path
