"""Copying random tokens in several shapes, so that the heads that copy exist before language comes."""

from __future__ import annotations

import random
from collections.abc import Sequence

SEPARATORS = 9
"""The first ids are special tokens; the tasks use them as separators only."""


def example(rng: random.Random, tokens: Sequence[int]) -> tuple[list[int], list[int]]:
    """One sequence made of `tokens`, and its weights: 1 where a token can be known from what comes before it."""
    alphabet = rng.sample(tokens, min(len(tokens), rng.choice((10, 20, 60, 200))))
    return rng.choice((_repeat, _lookup, _walk))(rng, alphabet)


def _string(rng: random.Random, alphabet: list[int], most: int) -> list[int]:
    return [rng.choice(alphabet) for _ in range(rng.randint(1, most))]


def _repeat(rng: random.Random, alphabet: list[int]) -> tuple[list[int], list[int]]:
    """A string, then the same string again, two or three times."""
    text = _string(rng, alphabet, 30)
    ids, known = [0, *text, 1], [0] * (len(text) + 2)
    for _ in range(rng.randint(1, 2)):
        ids += [2, *text, 1]
        known += [0, *([1] * (len(text) + 1))]
    return ids, known


def _lookup(rng: random.Random, alphabet: list[int]) -> tuple[list[int], list[int]]:
    """Keys with values; then some keys are asked for."""
    keys = rng.sample(alphabet, min(len(alphabet), rng.randint(2, 7)))
    table = {key: _string(rng, alphabet, 8) for key in keys}
    ids = [0]
    for key, value in table.items():
        ids += [3, key, 4, *value, 1]
    known = [0] * len(ids)
    for _ in range(rng.randint(2, 4)):
        key = rng.choice(keys)
        ids += [5, key, 4, *table[key], 1]
        known += [0, 0, 0, *([1] * (len(table[key]) + 1))]
    return ids, known


def _walk(rng: random.Random, alphabet: list[int]) -> tuple[list[int], list[int]]:
    """A list of items; then its items in order, each followed by a new string, each preceded by the string before."""
    items = [_string(rng, alphabet, 4) for _ in range(rng.randint(2, 8))]
    last = _string(rng, alphabet, 5)
    ids = [0, *last]
    for item in items:
        ids += [6, *item]
    ids += [7]
    known = [0] * len(ids)
    for item in items:
        new = _string(rng, alphabet, 5)
        ids += [2, *last, 4, *item, 1, 5, *new, 1]
        known += [0, *([1] * (len(last) + 1 + len(item) + 1)), 0, *([0] * (len(new) + 1))]
        last = new
    return ids, known
