"""The rival: a script that loads the model for each generation, with transformers alone. Run in a model environment.

`script.py MODEL CHAT once` loads, generates 32 tokens, prints the seconds of both. CHAT is JSON: {messages, tools}.
`script.py MODEL CHAT N` does N further generations in the same process: the ceiling for a warm server.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter

TOKENS = 32


def main() -> None:
    began = perf_counter()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, chat, times = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    loaded = perf_counter()

    def generate() -> float:
        start = perf_counter()
        text = tokenizer.apply_chat_template(
            chat["messages"], tools=chat["tools"], add_generation_prompt=True, tokenize=False
        )
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            model.generate(**inputs, min_new_tokens=TOKENS, max_new_tokens=TOKENS, do_sample=False)
        return perf_counter() - start

    first = generate()
    more = [generate() for _ in range(0 if times == "once" else int(times))]
    print(json.dumps({"load": loaded - began, "first": first, "more": more}))


if __name__ == "__main__":
    main()
