"""Scores a saved model on held-out dialogues: it generates every turn, through transformers, as saved.

python models/demo/training/evaluate.py [models/demo] [--count 100] [--temperature 0.7]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from dialogues import Dialogue, dialogue
from transformers import AutoModelForCausalLM, AutoTokenizer

HOME = Path(__file__).resolve().parents[1]
KINDS = (
    ("single", 1),
    ("chain6", 1),
    ("chain10", 1),
    ("pair", 1),
    ("mixed", 1),
    ("broken", 1),
    ("talk", 1),
    ("missing", 1),
    ("ending", 1),
    ("custom", 1),
    ("single", 3),
    ("mixed", 3),
)


@dataclass
class Speaker:
    """A loaded model that continues a rendered text up to the end of the assistant's turn."""

    folder: Path
    temperature: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.model = AutoModelForCausalLM.from_pretrained(self.folder).eval()

    def say(self, text: str) -> str:
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        started = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=160, **sampling)[
                0, ids.shape[1] :
            ]
        self.seconds += time.perf_counter() - started
        self.tokens += len(out)
        return self.tokenizer.decode(out, skip_special_tokens=False).removesuffix("<|im_end|>")


def play(speaker: Speaker, made: Dialogue, style: Callable[[str], str] = str) -> tuple[bool, bool, str]:
    """Runs a dialogue with the model's own words in the history: calls right, answers right, what was wrong first."""
    text, calls_right, answers_right, wrong = made.head(), True, True, ""
    for turn in made.turns:
        if not turn.learn:
            text += turn.text
            continue
        expected = turn.text.removesuffix("<|im_end|>")
        if "<tool_call>" not in expected:
            expected = style(expected)
        said = speaker.say(text)
        text += said + "<|im_end|>"
        if said == expected:
            continue
        wrong = wrong or f"{text[-300 - len(said) :]!r}\n   expected {expected!r}\n   but said {said!r}"
        if "<tool_call>" in expected or "<tool_call>" in said:
            return False, False, wrong
        answers_right = False
    return calls_right, answers_right, wrong


def evaluate(
    folder: Path, count: int, style: Callable[[str], str] = str, temperature: float = 0.0, seed: int = 7, show: int = 0
) -> dict[str, dict[str, float]]:
    """For each kind of dialogue the share with all calls right and the share with all calls and all answers right."""
    torch.manual_seed(seed)
    speaker = Speaker(folder, temperature)
    scores = {}
    for kind, turns in KINDS:
        rng = random.Random(f"{seed} {kind} {turns}")
        played = [play(speaker, dialogue(rng, kind, held_out=True, turns=turns), style) for _ in range(count)]
        name = kind if turns == 1 else f"{kind}, {turns} requests"
        calls, answers = (sum(p[i] for p in played) / count for i in (0, 1))
        scores[name] = {"dialogues": count, "calls": round(calls, 4), "all": round(answers, 4)}
        print(name, scores[name], flush=True)
        for wrong in [p[2] for p in played if p[2]][:show]:
            print("  ", wrong)
    print(f"{1000 * speaker.seconds / speaker.tokens:.2f} ms a token, reading the prompt included")
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=HOME)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--show", type=int, default=0, help="how many mistakes of each kind to print")
    parser.add_argument("--pirate", action="store_true", help="expect the adapter's way of speaking")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    style: Callable[[str], str] = str
    if arguments.pirate:
        from adapter import pirate as style
    print(
        json.dumps(
            evaluate(arguments.folder, arguments.count, style, arguments.temperature, arguments.seed, arguments.show),
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
