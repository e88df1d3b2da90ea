"""One step of training: examples to batches, gradients over all processes, two optimizers; and what was learned."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from dialogues import Dialogue, dialogue
from network import Muon, Network
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

MUON_RATE, ADAM_RATE = 0.02, 0.004
MICRO_BATCH = 800
"""Tokens, padding included, that go through the network at once: more fall out of a small core's cache."""

Example = tuple[list[int], list[int]]
"""Token ids, and for each 1 where the network must know it."""

CHECKED = (
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
)


@dataclass(frozen=True)
class Progress:
    """What one step over all processes showed."""

    loss: float
    right: float
    """Share of the learned tokens that were the most likely ones."""
    learned: float
    """Learned tokens in the step."""


def encode(tokenizer: Tokenizer, made: Dialogue) -> Example:
    """The ids of a dialogue; what the assistant says is to be learned."""
    ids = list(tokenizer.encode(made.head(), add_special_tokens=False).ids)
    learn = [0] * len(ids)
    parts = tokenizer.encode_batch([turn.text for turn in made.turns], add_special_tokens=False)
    for turn, part in zip(made.turns, parts, strict=True):
        ids += part.ids
        learn += [int(turn.learn)] * len(part.ids)
    return ids, learn


def batches(examples: list[Example], tokens: int) -> Iterator[tuple[Tensor, Tensor, Tensor, list[int]]]:
    """Padded parts of alike lengths: ids, positions that predict a learned token, those tokens, examples' indices."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index][0]))
    while order:
        part, longest = [], 0
        while order and (not part or (len(part) + 1) * len(examples[order[0]][0]) <= tokens):
            part.append(order.pop(0))
            longest = len(examples[part[-1]][0])
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        chosen = torch.zeros(len(part), longest, dtype=torch.bool)
        for row, index in enumerate(part):
            example, learn = examples[index]
            ids[row, : len(example)] = torch.tensor(example)
            chosen[row, : len(learn) - 1] = torch.tensor(learn[1:]).bool()
        yield ids, chosen, ids.roll(-1, 1)[chosen], part


class Trainer:
    """The network with its two optimizers: Muon for the matrices of the layers, AdamW for the rest."""

    def __init__(self, network: Network) -> None:
        self.network = network
        hidden = [weight for weight in network.layers.parameters() if weight.dim() == 2]
        chosen = {id(weight) for weight in hidden}
        self._others = [weight for weight in network.parameters() if id(weight) not in chosen]
        self._muon = Muon(hidden, MUON_RATE)
        self._adam = torch.optim.AdamW(self._others, ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)

    @torch.no_grad()
    def losses(self, examples: list[Example]) -> list[float]:
        """The loss of each example, summed over its learned tokens."""
        found = [0.0] * len(examples)
        for ids, chosen, wanted, part in batches(examples, 2 * MICRO_BATCH):
            loss = torch.zeros(chosen.shape)
            loss[chosen] = F.cross_entropy(self.network(ids, chosen), wanted, reduction="none")
            for index, value in zip(part, loss.sum(1).tolist(), strict=True):
                found[index] = value
        return found

    def gradients(self, examples: list[Example]) -> tuple[float, float, float]:
        """Adds up the gradients of the summed loss; gives the loss, the tokens that were right, the learned tokens."""
        loss_sum, right = 0.0, 0.0
        for ids, chosen, wanted, _ in batches(examples, MICRO_BATCH):
            logits = self.network(ids, chosen)
            loss = F.cross_entropy(logits, wanted, reduction="sum")
            loss.backward()
            loss_sum += loss.item()
            right += float((logits.argmax(-1) == wanted).sum())
        return loss_sum, right, float(sum(sum(learn) for _, learn in examples))

    def step(self, shown: tuple[float, float, float], factor: float) -> Progress:
        """One update from the gradients of all processes, each weighted by its tokens."""
        weights = list(self.network.parameters())
        flat = torch.cat([*(weight.grad.reshape(-1) for weight in weights), torch.tensor(shown)])
        if dist.is_initialized():
            dist.all_reduce(flat)
        loss, right, learned = flat[-3:].tolist()
        at = 0
        for weight in weights:
            weight.grad.copy_(flat[at : at + weight.numel()].view_as(weight)).div_(learned)
            at += weight.numel()
        torch.nn.utils.clip_grad_norm_(self._others, 1.0)
        self._muon.param_groups[0]["lr"] = MUON_RATE * factor
        self._adam.param_groups[0]["lr"] = ADAM_RATE * factor
        self._muon.step()
        self._adam.step()
        self.network.zero_grad()
        return Progress(loss / learned, right / learned, learned)


@torch.no_grad()
def check(network: Network, tokenizer: Tokenizer, count: int, seed: int = 0) -> dict[str, float]:
    """The share of held-out dialogues in which every token of the assistant is the most likely one."""
    scores = {}
    for kind, turns in CHECKED:
        rng = random.Random(f"{seed} {kind} {turns}")
        examples = [encode(tokenizer, dialogue(rng, kind, held_out=True, turns=turns)) for _ in range(count)]
        right = 0
        for ids, chosen, wanted, _ in batches(examples, 4000):
            good = torch.ones_like(chosen)
            good[chosen] = network(ids, chosen).argmax(-1) == wanted
            right += int(good.all(1).sum())
        scores[f"{kind}{'' if turns == 1 else f'*{turns}'}"] = round(right / count, 3)
    return scores
