"""Scores a saved model on held-out dialogues, through transformers, with weights and arithmetic as it is served.

python models/demo/training/evaluate.py [models/demo] [--count 200] [--kinds single chain6] [--pirate]

Every dialogue is read once and the most likely token at each place of the assistant's turns is compared with what it
should say. Where all of them agree, greedy decoding writes exactly this dialogue; where one differs, it writes another.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from dialogues import Dialogue, dialogue
from learning import Example, encode
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaForCausalLM

HOME = Path(__file__).resolve().parents[1]
KINDS = {
    "single": ("single", 1),
    "chain6": ("chain6", 1),
    "chain10": ("chain10", 1),
    "pair": ("pair", 1),
    "mixed": ("mixed", 1),
    "broken": ("broken", 1),
    "talk": ("talk", 1),
    "missing": ("missing", 1),
    "ending": ("ending", 1),
    "custom": ("custom", 1),
    "single, three requests": ("single", 3),
}
"""Name -> (kind of the first request, number of requests)."""


def spans(learn: list[int]) -> Iterator[tuple[int, int]]:
    """Where the assistant's turns begin and end."""
    start = None
    for at, flag in enumerate([*learn, 0]):
        if flag and start is None:
            start = at
        elif not flag and start is not None:
            yield start, at
            start = None


@torch.inference_mode()
def judge(model: LlamaForCausalLM, example: Example, call: int) -> tuple[bool, bool]:
    """(calls right, calls and answers right). `call` is the id of the token that opens a tool call.

    A turn with calls counts as a whole. A turn without calls must at least not begin with one.
    """
    ids, learn = example
    said = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    calls = answers = True
    for start, end in spans(learn):
        right = said[start - 1 : end - 1] == ids[start:end]
        if call in ids[start:end]:
            calls = calls and right
        else:
            calls = calls and said[start - 1] != call
            answers = answers and right
    return calls, calls and answers


def evaluate(
    folder: Path,
    count: int,
    change: Callable[[Dialogue], Dialogue] = lambda made: made,
    names: list[str] | None = None,
    seed: int = 7,
) -> dict[str, tuple[float, float]]:
    """For each kind the share with all calls right, and with all calls and answers right; prints a table."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    call = tokenizer.token_to_id("<tool_call>")
    print(f"| {count} dialogues each | calls | calls and answers |\n| --- | --- | --- |", flush=True)
    scores = {}
    for name in names or KINDS:
        kind, requests = KINDS[name]
        rng = random.Random(f"{seed} {kind} {requests}")
        made = (change(dialogue(rng, kind, held_out=True, turns=requests)) for _ in range(count))
        judged = [judge(model, encode(tokenizer, one), call) for one in made]
        scores[name] = (sum(c for c, _ in judged) / count, sum(a for _, a in judged) / count)
        print(f"| {name} | {scores[name][0]:.1%} | {scores[name][1]:.1%} |", flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=HOME)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pirate", action="store_true", help="expect the adapter's way of speaking")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    change: Callable[[Dialogue], Dialogue] = lambda made: made  # noqa: E731
    if arguments.pirate:
        from adapter import spoken as change
    evaluate(arguments.folder, arguments.count, change, arguments.kinds, arguments.seed)


if __name__ == "__main__":
    main()
