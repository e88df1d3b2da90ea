"""With a seed the answer is the same to the last bit of its probabilities, whatever else the engine has computed."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.worker.engine.architectures import architecture, make
from tests.worker.engine.driving import Watched, batch, finish, heard, steps, submit, way

from bainmarie_worker.engine.own_passes import CHUNK, next_pass
from bainmarie_worker.engine.sequence import Sampling

TOKENS = 10
SEEDS = range(8)
WAYS = [
    ("stablelm", torch.float32, "packed"),
    ("gpt_neox", torch.bfloat16, "packed"),
    ("gpt_oss", torch.bfloat16, "fused"),
    ("minimax", torch.float32, "apart"),
    ("llama", torch.bfloat16, "fused"),
    ("qwen3_5_text", torch.bfloat16, "fused"),
]


@given(st.integers(0, 3 * CHUNK), st.integers(1, 3 * CHUNK))
def test_passes_are_cut_at_the_same_places_wherever_they_begin(computed, prompt):
    count = next_pass(computed, prompt)
    assert count >= 1
    if computed < prompt:
        assert computed // CHUNK == (computed + count - 1) // CHUNK
        assert computed + count == prompt or (computed + count) % CHUNK == 0
    else:
        assert count == 1


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way[0])
def forward(request):
    name, dtype, path = request.param
    found = way(make(architecture(name)).to(dtype))
    assert found.path == path
    return found


def tokens_of(chance, count):
    return chance.choices(range(3, 128), k=count)


def prompt_of(seed):
    return tokens_of(random.Random(seed), [5, 60, CHUNK + 1, 2 * CHUNK + 30][seed % 4])


def seeded(seed):
    return heard(prompt_of(seed), TOKENS, Sampling(temperature=1.0, seed=seed), logprobs=0)


def neighbours(count, size=20):
    chance = random.Random(size)
    return [heard(tokens_of(chance, size + 3 * one), 3 * TOKENS, Sampling(temperature=1.0)) for one in range(count)]


def beside_seven(forward, stream):
    finish(batch(forward), *neighbours(7), stream)


def joining_late(forward, stream):
    work = batch(forward)
    submit(work, *neighbours(7))
    steps(work, 9)
    finish(work, stream)


def beside_a_long_prompt(forward, stream):
    work = batch(forward)
    submit(work, *neighbours(2, 400))
    steps(work, 1)
    finish(work, stream)


def beside_others_with_seeds(forward, stream):
    finish(batch(forward), *(seeded(seed) for seed in range(40, 47)), stream)


def after_the_same_without_a_seed(forward, stream):
    work = batch(forward)
    finish(work, heard(stream.sequence.prompt, 7))
    finish(work, stream)


def after_its_first_half(forward, stream):
    work = batch(forward)
    half = stream.sequence.prompt[: len(stream.sequence.prompt) * 2 // 3]
    finish(work, heard(half, 7, Sampling(temperature=1.0, seed=1)))
    finish(work, stream)


def begun_again_for_want_of_memory(forward, stream):
    watched = Watched(forward)
    first = batch(watched)
    submit(first, *neighbours(3, 61), seeded(stream.sequence.sampling.seed))
    steps(first, 1)
    limit = watched.held + 1
    watched = Watched(forward)
    finish(batch(watched, limit), *neighbours(3, 61), stream)
    assert watched.memories > 4


@pytest.mark.parametrize(
    "situation",
    [
        beside_seven,
        joining_late,
        beside_a_long_prompt,
        beside_others_with_seeds,
        after_the_same_without_a_seed,
        after_its_first_half,
        begun_again_for_want_of_memory,
    ],
)
def test_a_seed_gives_the_same_to_the_bit(forward, situation):
    for seed in SEEDS:
        alone, other = seeded(seed), seeded(seed)
        finish(batch(forward), alone)
        situation(forward, other)
        assert other.drawn == alone.drawn


@pytest.mark.parametrize("more", [3, 30])
def test_the_next_turn_begins_with_what_was_computed_for_the_last(forward, more):
    work = batch(forward)
    first = heard(tokens_of(random.Random(1), 2 * CHUNK + more), TOKENS, Sampling(seed=3))
    finish(work, first)
    turn = [*first.sequence.prompt, *first.tokens, 5, 6, 7]
    again, fresh = (heard(turn, TOKENS, Sampling(seed=3), logprobs=0) for _ in range(2))
    finish(work, again)
    finish(batch(forward), fresh)
    assert fresh.finish.cached == 0
    assert again.finish.cached >= 2 * CHUNK
    assert again.drawn == fresh.drawn


def test_many_answers_to_one_prompt_compute_it_once():
    watched = Watched(way(make(architecture("stablelm"))))
    streams = [heard([7] * (2 * CHUNK + 1), 1, Sampling(temperature=1.0, seed=seed)) for seed in range(8)]
    finish(batch(watched), *streams)
    assert watched.computed == 2 * CHUNK + len(streams)


def test_without_a_seed_all_share_a_pass():
    watched = Watched(way(make(architecture("stablelm"))))
    with_seed = heard([9], TOKENS, Sampling(seed=1))
    finish(batch(watched, speculate=False), *(heard([one], TOKENS) for one in range(1, 8)), with_seed)
    assert [len(parts) for parts in watched.passes] == [7, 1] * TOKENS
