"""Makes the benchmark's models: `make_models.py FOLDER`, in an environment with transformers and peft.

FOLDER/tiny, FOLDER/r100m and FOLDER/r475m (Qwen3, bfloat16, untied) with a tokenizer, and FOLDER/r100m-lora-0 ... 3
on the first two.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from contest.words import COUNT, END, FIRST_WORD, LETTERS, VOCABULARY, WORDS, successor

SHAPES = {
    "tiny": {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "head_dim": 64, "intermediate_size": 512},
    "r100m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
              "head_dim": 64, "intermediate_size": 2048},
    "r475m": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
              "head_dim": 128, "intermediate_size": 3072},
}  # fmt: skip
ADAPTERS = 4
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEMPLATE = "{%- for message in messages -%}{{- message.content -}}{%- endfor -%}"
HEAD = 0.03
"""Scale of the head: the right logit is about 16, all others under 5, so that rounding changes no word."""


def main() -> None:
    folder = Path(sys.argv[1])
    for name, shape in SHAPES.items():
        torch.manual_seed(1)
        make_tokenizer().save_pretrained(folder / name)
        make_model(shape).save_pretrained(folder / name)
        add_template(folder / name)
    for name in ("tiny", "r100m"):
        for number in range(ADAPTERS):
            torch.manual_seed(number)
            make_adapter(folder / name, folder / f"{name}-lora-{number}")
    (folder / "made").touch()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges make one token of a space and three letters."""
    space = "\u0120"
    starts = [space + a for a in LETTERS]
    pairs = [space + a + b for a in LETTERS for b in LETTERS]
    words = [space + word for word in WORDS]
    entries = [END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *starts, *pairs, *words]
    assert len(entries) == VOCABULARY
    assert entries[FIRST_WORD] == words[0]
    merges = [(token[:-1], token[-1]) for token in (*starts, *pairs, *words)]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(entries)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False, chat_template=TEMPLATE
    )


def make_model(shape: dict[str, Any]) -> Qwen3ForCausalLM:
    """Random layers; the head's row of a word is the embedding of its predecessor, other rows are zero."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        dtype="bfloat16",
        **shape,
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.normal_()
        head.zero_()
        head[[FIRST_WORD + successor(w) for w in range(COUNT)]] = embedding[FIRST_WORD:] * HEAD
    return model


def add_template(folder: Path) -> None:
    """The chat template in tokenizer_config.json too, for those who read it only there."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}, indent=2))


def make_adapter(base: Path, folder: Path) -> None:
    """A LoRA of rank 16 on all linear layers, too weak to change a word."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.002)
    tuned.save_pretrained(folder)


if __name__ == "__main__":
    main()
