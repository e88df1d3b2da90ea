"""Trains the demo model from nothing: tokenizer, copying, dialogues, those that it gets wrong, adapter, scores.

python models/demo/training/train.py [--seed 1] [--scale 1.0] [--resume]

Two processor cores, about four hours. `--scale 0.01` shows in two minutes that everything runs.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import string
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import copying
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from dialogues import BUILT_IN, dialogue
from learning import Example, Progress, Trainer, check, encode
from network import Network, Shape, config, save_weights, write_json
from tokenizer import build, save
from tokenizers import Tokenizer

HOME = Path(__file__).resolve().parents[1]
SHAPE = Shape(vocab=768, hidden=192, layers=4, inner=512)
KEYS = ("expression", "place", "path", "content", "command", "city", "id", "query", "name", "text")
LONGEST = 1000
"""Dialogues with more tokens are left out."""
STEP_SECONDS = 1.1
"""How long each process should compute for one step: a busy core gets a smaller share of it."""


@dataclass(frozen=True)
class Stage:
    """A part of the training: its length, how many processes share it, its highest learning rate."""

    name: str
    minutes: float
    processes: int
    peak: float
    ends_at_zero: bool
    hardest: float = 1.0
    """The share of the dialogues of each kind that is learned: those with the largest loss."""
    kept: float = 0.0
    """How much of the weights before goes into the result: the mean of both is better than either."""

    def rate(self, done: float) -> float:
        """The learning rate's factor at the fraction `done`: up, flat for a fifth, down in a straight line."""
        if done < 0.015:
            return self.peak * done / 0.015
        return self.peak * (min(1.0, 1.25 * (1 - done)) if self.ends_at_zero else 1.0)


STAGES = (
    Stage("copying", minutes=10, processes=1, peak=1.0, ends_at_zero=False),
    Stage("dialogues", minutes=51, processes=1, peak=1.0, ends_at_zero=True),
    Stage("again", minutes=66, processes=2, peak=0.6, ends_at_zero=True),
    Stage("hard", minutes=45, processes=1, peak=0.2, ends_at_zero=True, hardest=0.25, kept=0.5),
    Stage("harder", minutes=60, processes=1, peak=0.2, ends_at_zero=True, hardest=0.25, kept=0.3),
)


def make_tokenizer(seed: int) -> Tokenizer:
    rng = random.Random(f"tokenizer {seed}")
    texts = ["".join(turn.text for turn in made.turns) + made.head() for made in (dialogue(rng) for _ in range(6000))]
    return build(texts, SHAPE.vocab, BUILT_IN, KEYS)


def copies(rng: random.Random, tokens: float) -> list[Example]:
    """About `tokens` tokens of random strings to copy."""
    examples: list[Example] = []
    while sum(len(ids) for ids, _ in examples) < tokens:
        examples.append(copying.example(rng, range(copying.SEPARATORS, SHAPE.vocab)))
    return examples


def talks(rng: random.Random, tokens: float, tokenizer: Tokenizer) -> list[tuple[str, Example]]:
    """About `tokens` tokens of dialogues with their kinds, and a little copying of characters."""
    characters = [tokenizer.token_to_id(character) for character in string.ascii_letters + string.digits + "._-/"]
    found = [("copying", copying.example(rng, characters)) for _ in range(3)]
    count = 0
    while count < tokens:
        made = dialogue(rng)
        example = encode(tokenizer, made)
        if len(example[0]) <= LONGEST:
            found.append((made.kind, example))
            count += len(example[0])
    return found


def hardest(rng: random.Random, trainer: Trainer, found: list[tuple[str, Example]], share: float) -> list[Example]:
    """Of each kind the given share with the largest loss: late in a training most dialogues teach nothing more."""
    groups: dict[str, list[tuple[float, Example]]] = {}
    examples = [example for _, example in found]
    for (kind, example), loss in zip(found, trainer.losses(examples), strict=True):
        groups.setdefault(kind, []).append((loss, example))
    chosen: list[Example] = []
    for group in groups.values():
        group.sort(key=lambda item: -item[0])
        chosen += [example for _, example in group[: int(share * len(group) + rng.random())]]
    return chosen


def learned(rng: random.Random, stage: Stage, trainer: Trainer, tokens: float, tokenizer: Tokenizer) -> list[Example]:
    """About `tokens` tokens of what the stage learns."""
    if stage.name == "copying":
        return copies(rng, tokens)
    found = talks(rng, tokens / stage.hardest, tokenizer)
    return hardest(rng, trainer, found, stage.hardest) if stage.hardest < 1 else [example for _, example in found]


def run_stage(rank: int, stage: Stage, before: Path | None, arguments: argparse.Namespace) -> None:
    """One process of a stage, on a core of its own; the first one saves and reports."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    if stage.processes > 1:
        store = f"file://{arguments.work / (stage.name + '.rendezvous')}"
        dist.init_process_group("gloo", store, rank=rank, world_size=stage.processes)
    tokenizer = Tokenizer.from_file(str(arguments.work / "tokenizer.json"))
    torch.manual_seed(arguments.seed)
    trainer = Trainer(Network(SHAPE))
    if before is not None:
        trainer.network.load_state_dict(torch.load(before))
    rng = random.Random(f"{stage.name} {arguments.seed} {rank}")
    share, steps, began = 3600.0, 0, time.monotonic()
    seen = collections.deque[Progress](maxlen=50)
    while (done := elapsed(began) / (60 * stage.minutes * arguments.scale)) < 1:
        started = time.monotonic()
        shown = trainer.gradients(learned(rng, stage, trainer, share, tokenizer))
        share = min(6000.0, max(900.0, share * (STEP_SECONDS / (time.monotonic() - started)) ** 0.5))
        seen.append(trainer.step(shown, stage.rate(done)))
        steps += 1
        if rank == 0 and steps % 25 == 0:
            loss, right = (sum(getattr(p, name) for p in seen) / len(seen) for name in ("loss", "right"))
            print(f"{stage.name} {steps} {done:.1%} loss {loss:.4f} right {right:.4f}", flush=True)
    if rank == 0:
        if before is not None and stage.kept:
            weights = trainer.network.state_dict()
            for name, value in torch.load(before).items():
                weights[name].lerp_(value, stage.kept)
        torch.save(trainer.network.state_dict(), arguments.work / f"{stage.name}.pt")
        if stage.name != "copying":
            print(check(trainer.network, tokenizer, 100), flush=True)


def elapsed(began: float) -> float:
    """Seconds since `began` by the first process's clock, so that all processes stop at the same step."""
    seconds = torch.tensor([time.monotonic() - began])
    if dist.is_initialized():
        dist.broadcast(seconds, 0)
    return seconds.item()


def save_model(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Write everything that LlamaForCausalLM and AutoTokenizer need."""
    folder.mkdir(parents=True, exist_ok=True)
    end, stop = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|im_end|>")
    write_json(folder / "config.json", config(network.shape, end, stop, end))
    generation = {"bos_token_id": end, "eos_token_id": [stop, end], "pad_token_id": end}
    write_json(folder / "generation_config.json", {**generation, "do_sample": False, "max_new_tokens": 512})
    save(tokenizer, folder)
    save_weights(network, folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the time that each stage takes")
    parser.add_argument("--count", type=int, default=200, help="dialogues of each kind in the final scores")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HOME)
    default = Path(tempfile.gettempdir()) / "demo-training"
    parser.add_argument("--work", type=Path, default=default, help="for the result of each stage")
    parser.add_argument("--resume", action="store_true", help="leave out the stages whose result is in --work")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    words = arguments.work / "tokenizer.json"
    if not (arguments.resume and words.exists()):
        make_tokenizer(arguments.seed).save(str(words))
    before: Path | None = None
    for stage in STAGES:
        result = arguments.work / f"{stage.name}.pt"
        if not (arguments.resume and result.exists()):
            (arguments.work / f"{stage.name}.rendezvous").unlink(missing_ok=True)
            mp.spawn(run_stage, (stage, before, arguments), nprocs=stage.processes)
        before = result
    network = Network(SHAPE)
    network.load_state_dict(torch.load(before))
    save_model(network, Tokenizer.from_file(str(words)), arguments.out)

    from adapter import make, spoken  # these two need transformers and peft, the training does not
    from evaluate import evaluate

    evaluate(arguments.out, arguments.count)
    make(arguments.out.resolve(), 4 * arguments.scale, arguments.seed)
    evaluate(arguments.out.with_name(f"{arguments.out.name}-pirate-merged"), arguments.count, spoken)


if __name__ == "__main__":
    main()
