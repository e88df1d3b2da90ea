"""The rival: a script that loads the model for each generation, with transformers alone. Run in a model environment.

`script.py MODEL once` loads, generates 32 tokens, prints the seconds of both.
`script.py MODEL warm N` loads once and prints the seconds of N generations after a first one: the ceiling.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter


def main() -> None:
    began = perf_counter()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, mode = sys.argv[1:3]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    loaded = perf_counter()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who are you?"}], add_generation_prompt=True, tokenize=False
    )
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")

    def generate() -> float:
        start = perf_counter()
        with torch.inference_mode():
            model.generate(**inputs, min_new_tokens=32, max_new_tokens=32, do_sample=False)
        return perf_counter() - start

    first = generate()
    more = [generate() for _ in range(int(sys.argv[3]))] if mode == "warm" else []
    print(json.dumps({"load": loaded - began, "first": first, "more": more}))


if __name__ == "__main__":
    main()
