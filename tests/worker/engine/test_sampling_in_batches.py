"""Sampling through the whole engine: the same tokens alone, beside others, with guesses and without."""

from __future__ import annotations

import random

import pytest
import torch
from tests.worker.engine.architectures import architecture, make
from tests.worker.engine.driving import CPU, Watched, batch, finish, heard, way

from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Sampling

PROMPT = [9, 8, 7, 6] * 6
TOKENS = 24


WITH_STATES = ("qwen3_5_text", "lfm2", "granitemoehybrid", "falcon_h1", "nemotron_h", "mamba2")


@pytest.fixture(scope="module")
def reference():
    return make(architecture("llama"))


@pytest.fixture(scope="module")
def forward():
    return way(make(architecture("llama")))


@pytest.fixture(scope="module", params=["llama", *WITH_STATES])
def each(request):
    """Of several models, whose memories take back guesses in their own ways."""
    return way(make(architecture(request.param)))


def logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].float()


def others():
    chance = random.Random(3)
    return [
        heard(chance.choices(range(3, 128), k=7 + 5 * number), TOKENS, Sampling(temperature=2.0)) for number in range(7)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"top_k": 20, "min_p": 0.01}, {"frequency_penalty": 0.5}])
def test_a_seed_gives_the_same_alone_in_a_batch_and_with_guesses(each, seed, settings):
    near = tuple((token, 6.0) for token in (6, 7, 8, 9))
    sampling = Sampling(temperature=0.8, seed=seed, logit_bias=near, **settings)
    alone, beside, guessing, both = (heard(PROMPT, TOKENS, sampling) for _ in range(4))
    finish(batch(each, speculate=False), alone)
    finish(batch(each, speculate=False), *others(), beside)
    watched = Watched(each)
    finish(batch(watched), guessing)
    finish(batch(each), *others(), both)
    assert watched.guessed > 0
    assert len(set(alone.tokens)) > 2
    assert alone.tokens == beside.tokens == guessing.tokens == both.tokens


def test_compiled_code_gives_the_same_beside_others_in_16_bit_too():
    """Each row is computed alike, whoever stands beside it: not so in torch's own products of matrices."""
    model = make(architecture("llama")).bfloat16()
    forward = way(model)
    assert forward.path == "fused"
    chance = random.Random(6)
    asked = [
        (chance.choices(range(3, 128), k=1 + 5 * number), Sampling(temperature=number % 2 * 1.0, seed=number))
        for number in range(12)
    ]
    alone = [heard(prompt, TOKENS, sampling) for prompt, sampling in asked]
    for stream in alone:
        finish(batch(forward), stream)
    together = [heard(prompt, TOKENS, sampling) for prompt, sampling in asked]
    finish(batch(forward), *together)
    assert [stream.tokens for stream in together] == [stream.tokens for stream in alone]


def test_right_guesses_are_made_while_sampling(each):
    """At a low temperature an answer in circles is guessed, and so it needs fewer passes."""
    watched = Watched(each)
    sampling = Sampling(temperature=0.5, seed=1, logit_bias=((9, 60.0), (8, 59.0)))
    stream, plain = (heard(PROMPT, 64, sampling) for _ in range(2))
    finish(batch(watched), stream)
    finish(batch(each, speculate=False), plain)
    assert stream.tokens == plain.tokens
    assert set(stream.tokens) == {8, 9}
    assert watched.draws < 64


def test_seeds_differ(forward):
    streams = [heard(PROMPT, TOKENS, Sampling(temperature=1.0, seed=seed)) for seed in range(8)]
    finish(batch(forward), *streams)
    assert len({tuple(stream.tokens) for stream in streams}) == 8


def test_without_a_seed_each_answer_is_another(forward):
    streams = [heard(PROMPT, TOKENS, Sampling(temperature=1.0)) for _ in range(4)]
    finish(batch(forward), *streams)
    assert len({tuple(stream.tokens) for stream in streams}) == 4


@pytest.mark.parametrize(
    ("sampling", "penalty"),
    [
        (Sampling(presence_penalty=3.0), lambda count, seen: 3.0 * (count > 0)),
        (Sampling(frequency_penalty=1.0), lambda count, seen: 1.0 * count),
        (Sampling(presence_penalty=-2.0, frequency_penalty=2.0), lambda count, seen: -2.0 * (count > 0) + 2.0 * count),
    ],
)
def test_penalties_are_those_of_the_formula(forward, reference, sampling, penalty):
    """Logit minus presence for what the answer has, minus frequency times how often."""
    ids, answer = list(PROMPT), []
    for _ in range(TOKENS):
        row = logits(reference, ids)[-1].clone()
        for token in set(answer):
            row[token] -= penalty(answer.count(token), token in PROMPT)
        answer.append(int(row.argmax()))
        ids.append(answer[-1])
    stream = heard(PROMPT, TOKENS, sampling)
    finish(batch(forward), *others(), stream)
    assert stream.tokens == answer
    plain = heard(PROMPT, TOKENS)
    finish(batch(forward), plain)
    assert plain.tokens != answer


def test_repetition_penalty_is_the_librarys(forward, reference):
    ids = torch.tensor([PROMPT])
    whole = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=TOKENS,
        repetition_penalty=1.7,
        eos_token_id=None,
    )
    stream = heard(PROMPT, TOKENS, Sampling(repetition_penalty=1.7))
    finish(batch(forward), *others(), stream)
    assert stream.tokens == whole[0, len(PROMPT) :].tolist()


def test_a_bias_forbids_and_demands(forward):
    plain = heard(PROMPT, TOKENS)
    finish(batch(forward), plain)
    forbidden = plain.tokens[0]
    without = heard(PROMPT, TOKENS, Sampling(logit_bias=((forbidden, -1000.0),)))
    demanded = heard(PROMPT, TOKENS, Sampling(temperature=1.0, logit_bias=((77, 1000.0),)))
    finish(batch(forward), without, demanded)
    assert forbidden not in without.tokens
    assert demanded.tokens == [77] * TOKENS


def test_probabilities_are_those_of_the_models_logits(forward, reference):
    """Before temperature, bias and penalties; also where a guess was right, and beside others."""
    watched = Watched(forward)
    sampling = Sampling(temperature=0.9, seed=4, frequency_penalty=0.3, logit_bias=((9, 40.0),))
    stream = heard(PROMPT, TOKENS, sampling, logprobs=5)
    finish(batch(watched), *others(), stream)
    chances = logits(reference, [*PROMPT, *stream.tokens])[len(PROMPT) - 1 : -1].log_softmax(-1)
    assert watched.guessed > 0
    assert len(stream.drawn) == TOKENS
    for row, drawn in zip(chances, stream.drawn, strict=True):
        values, ids = row.topk(5)
        assert drawn.logprob == pytest.approx(float(row[drawn.token]), abs=1e-4)
        assert [token for token, _ in drawn.likeliest] == ids.tolist()
        assert [chance for _, chance in drawn.likeliest] == pytest.approx(values.tolist(), abs=1e-4)


def test_probabilities_without_likeliest_ones(forward):
    stream = heard(PROMPT, 3, logprobs=0)
    finish(batch(forward), stream)
    assert [drawn.likeliest for drawn in stream.drawn] == [()] * 3


def test_the_end_token_ends_unless_it_is_to_be_ignored(forward):
    plain = heard(PROMPT, TOKENS)
    finish(batch(forward), plain)
    end = plain.tokens[10]
    first = plain.tokens.index(end)
    ended, ignored = heard(PROMPT, TOKENS), heard(PROMPT, TOKENS, ignore_eos=True)
    finish(batch(forward, ends=[end]), ended, ignored)
    assert ended.tokens == plain.tokens[:first]
    assert (ended.finish.reason, ended.finish.generated) == ("stop", first + 1)
    assert ignored.tokens == plain.tokens
    assert ignored.finish.reason == "length"


def test_an_end_among_right_guesses_is_the_end(each):
    """What lies behind it is forgotten: the conversation goes on as if nothing had been guessed."""
    circle = Sampling(logit_bias=((9, 500.0),))
    watched = Watched(each)
    work = batch(watched, ends=[50])
    stream = heard([50, *PROMPT, 9, 9, 9, 9, 9, 9, 50, 9, 9, 9, 9], 40, circle)
    finish(work, stream)
    assert stream.tokens == [9] * 40
    told = [*stream.sequence.prompt, *stream.tokens]
    again, fresh = heard([*told, 5, 4], 6), heard([*told, 5, 4], 6)
    finish(work, again)
    finish(batch(each), fresh)
    assert again.tokens == fresh.tokens
    assert again.finish.cached == len(told) - 1


@pytest.mark.parametrize("length", [1, 2, 5, 17])
def test_never_more_than_max_tokens_though_guesses_are_right(each, length):
    stream = heard([9] * 20, length, Sampling(logit_bias=((9, 500.0),)))
    finish(batch(each), stream)
    assert stream.tokens == [9] * length
    assert stream.finish.generated == length


DRAWS = 4_000


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"temperature": 2.0}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.9}, [1, 2, 3]),
        ({"top_p": 0.6}, [1]),
        ({"top_k": 2}, [1, 2]),
        ({"min_p": 0.2}, [1, 2]),
        ({"top_k": 3, "top_p": 0.8}, [1, 2]),
    ],
)
def test_many_draws_have_the_distribution_that_was_asked_for(settings, kept):
    """Chi-square of 4,000 draws; 25 is beyond all reason for four degrees of freedom."""
    row = torch.tensor([0.0, 3.0, 2.0, 1.0, -1.0])
    sampler = Sampler(Sampling(**{"temperature": 1.0, "seed": 5, **settings}), (), CPU)
    counts = torch.zeros(5)
    for _ in range(DRAWS):
        counts[sampler.pick(row)] += 1
    expected = torch.zeros(5)
    expected[kept] = (row / settings.get("temperature", 1.0)).softmax(-1)[kept]
    expected *= DRAWS / expected.sum()
    assert set(counts.nonzero()[:, 0].tolist()) == set(kept)
    assert float(((counts - expected)[kept] ** 2 / expected[kept]).sum()) < 25
