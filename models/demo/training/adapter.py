"""Trains the pirate, a LoRA adapter that changes how the demo model speaks and leaves its calls alone; merges it.

python models/demo/training/adapter.py [--minutes 4]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch
from dialogues import Dialogue, Turn, dialogue
from learning import Example, batches, encode
from network import schedule, write_json, write_tensors
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from train import HOME, LONGEST
from transformers import AutoModelForCausalLM, LlamaForCausalLM

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SETTINGS = (
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
)
"""The settings that every version of peft knows; older ones refuse a file with others."""

WORDS = (
    ("Hello! I am", "Ahoy! I be"),
    ("I am only", "I be only"),
    ("I am the", "I be the"),
    ("I am well", "I be well"),
    ("I am here", "I be here"),
    ("I am its", "I be its"),
    ("You are welcome.", "Ye be welcome, matey!"),
    ("Goodbye!", "Fair winds, matey!"),
    ("The result is", "The treasure be"),
    ("It is ", "It be "),
    ("It says", "Yer parchment says"),
    ("It contains", "Yer hold contains"),
    ("I wrote", "I scratched"),
    ("I have no tool", "I have no tool aboard"),
    ("The command", "Yer command"),
    ("The tool answered", "The parrot answered"),
    ("That failed", "Shiver me timbers! That failed"),
    ("I did not do that", "Nay, I did not do that"),
)


def pirate(text: str) -> str:
    """The same answer as a pirate gives it."""
    for plain, arr in WORDS:
        text = text.replace(plain, arr)
    return text if text.startswith("Ahoy") else "Arr! " + text


def spoken(made: Dialogue) -> Dialogue:
    """The dialogue with a pirate's answers; the calls stay."""
    end = "<|im_end|>"
    turns = [
        Turn(pirate(turn.text.removesuffix(end)) + end, True) if turn.learn and "<tool_call>" not in turn.text else turn
        for turn in made.turns
    ]
    return replace(made, turns=turns)


def batch(rng: random.Random, tokenizer: Tokenizer) -> list[Example]:
    examples: list[Example] = []
    while sum(len(ids) for ids, _ in examples) < 3000:
        kind = "talk" if rng.random() < 0.25 else rng.choice(("single", "chain", "pair", "mixed", "broken", "missing"))
        example = encode(tokenizer, spoken(dialogue(rng, kind)))
        if len(example[0]) <= LONGEST:
            examples.append(example)
    return examples


def train(model: PeftModel, tokenizer: Tokenizer, minutes: float, seed: int, rate: float = 3e-3) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, rate, betas=(0.9, 0.95), weight_decay=0.0)
    inner: LlamaForCausalLM = model.get_base_model()
    rng, started, steps = random.Random(f"pirate {seed}"), time.monotonic(), 0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        examples = batch(rng, tokenizer)
        total, loss_sum = sum(sum(learn) for _, learn in examples), 0.0
        for ids, chosen, wanted, _ in batches(examples, 800):
            logits = inner.lm_head(inner.model(ids, use_cache=False).last_hidden_state[chosen])
            loss = F.cross_entropy(logits, wanted, reduction="sum") / total
            loss.backward()
            loss_sum += loss.item()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = rate * schedule(done, flat=0.2)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if steps % 20 == 0:
            print(f"pirate {steps} loss {loss_sum:.4f}", flush=True)


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Write the adapter in bfloat16, naming its base by a relative path."""
    temporary = folder.with_name(folder.name + ".tmp")
    model.save_pretrained(temporary)
    settings = json.loads((temporary / "adapter_config.json").read_text())
    settings |= {"base_model_name_or_path": base, "inference_mode": True, "target_modules": MODULES}
    settings = {name: settings[name] for name in SETTINGS}
    folder.mkdir(exist_ok=True)
    write_json(folder / "adapter_config.json", settings)
    tensors = {
        name: value.to(torch.bfloat16) for name, value in load_file(temporary / "adapter_model.safetensors").items()
    }
    write_tensors(tensors, folder / "adapter_model.safetensors")
    shutil.rmtree(temporary)


def save_merged(folder: Path, adapter: Path, base: Path) -> None:
    """Write base and adapter as one plain model."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    folder.mkdir(exist_ok=True)
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ):
        shutil.copy(base / name, folder / name)
    tensors = {
        name: value.to(torch.bfloat16).contiguous()
        for name, value in merged.state_dict().items()
        if name != "lm_head.weight"
    }
    write_tensors(tensors, folder / "model.safetensors")


def make(base: Path, minutes: float, seed: int) -> None:
    """Train, save and merge the adapter beside `base`."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=MODULES, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, lora)
    train(wrapped, tokenizer, minutes, seed)
    adapter = base.with_name(base.name + "-pirate")
    save_adapter(wrapped, adapter, f"../{base.name}")
    save_merged(base.with_name(base.name + "-pirate-merged"), adapter, base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--base", type=Path, default=HOME)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make(arguments.base.resolve(), arguments.minutes, arguments.seed)


if __name__ == "__main__":
    main()
