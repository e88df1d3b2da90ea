"""The way through the library's own `generate()`: slow, and just as right."""

from __future__ import annotations

import random

import pytest
import torch
from tests.worker.engine.architectures import BY_GENERATE, make
from tests.worker.engine.driving import CPU, Heard, generated, heard, told

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.library import Library
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Sampling
from bainmarie_worker.engine.ways import best_way

TOKENS = 8


@pytest.fixture(scope="module", params=BY_GENERATE, ids=lambda known: known.name)
def known(request):
    return request.param


@pytest.fixture(scope="module")
def reference(known):
    return make(known)


@pytest.fixture(scope="module")
def model(known):
    return make(known)


def library(model, ends=()):
    def sampler(stream):
        sequence = stream.sequence
        return Sampler(sequence.sampling, sequence.prompt, CPU, sequence.logprobs)

    def fail(stream, error):
        stream.put(told(error, stream))

    return Library(model, CPU, Adapters(model), frozenset(ends), sampler, fail)


def work_off(loop):
    with torch.inference_mode():
        while loop.busy:
            loop.step()


def finish(loop, *streams):
    for stream in streams:
        loop.submit(stream)
    work_off(loop)


def prompts():
    chance = random.Random(5)
    return [chance.choices(range(3, 128), k=length) for length in (1, 2, 5, 9, 17, 33, 60, 21)]


def test_no_better_way_fits(model, known):
    why = best_way(model, CPU)
    assert isinstance(why, str)
    assert known.why in why


def test_eight_of_different_lengths(model, reference):
    streams = [heard(prompt, TOKENS) for prompt in prompts()]
    finish(library(model), *streams)
    for stream in streams:
        assert stream.tokens == generated(reference, stream.sequence.prompt, TOKENS)
        assert (stream.finish.reason, stream.finish.generated, stream.finish.cached) == ("length", TOKENS, 0)


def test_joining_late_and_going_on(model, reference):
    loop = library(model)
    first = heard(prompts()[3], TOKENS)
    finish(loop, first)
    more = heard([*first.sequence.prompt, *first.tokens, 7], TOKENS)
    finish(loop, heard([5], 2), more)
    assert more.tokens == generated(reference, more.sequence.prompt, TOKENS)


class Leaving(Heard):
    """Whose client leaves after the third token."""

    def put(self, item):
        super().put(item)
        if len(self.tokens) == 3:
            self.cancelled.set()


def test_after_a_neighbour_was_cancelled(model, reference):
    loop = library(model)
    before, leaving, after = heard(prompts()[2], TOKENS), Leaving(heard(prompts()[3], TOKENS).sequence), heard([9], 4)
    gone = heard([5], 4)
    gone.cancelled.set()
    finish(loop, before, leaving, gone, after)
    assert (leaving.finish.reason, gone.finish.reason, gone.tokens) == ("cancelled", "cancelled", [])
    assert len(leaving.tokens) < TOKENS
    assert before.tokens == generated(reference, before.sequence.prompt, TOKENS)
    assert after.tokens == generated(reference, [9], 4)


def test_a_seed_is_a_seed(model):
    one, two, other = (heard([5, 6, 7], TOKENS, Sampling(temperature=1.0, seed=seed)) for seed in (1, 1, 2))
    finish(library(model), one, two, other)
    assert one.tokens == two.tokens != other.tokens


def test_the_end_token_ends_unless_it_is_to_be_ignored(model, reference):
    plain = generated(reference, [5, 6, 7], TOKENS)
    first = plain.index(plain[4])
    ended, ignored = heard([5, 6, 7], TOKENS), heard([5, 6, 7], TOKENS, ignore_eos=True)
    finish(library(model, [plain[4]]), ended, ignored)
    assert (ended.tokens, ended.finish.reason) == (plain[:first], "stop")
    assert ended.finish.generated == first + 1
    assert ignored.tokens == plain


def test_probabilities_are_those_of_the_models_logits(model, reference):
    stream = heard([5, 6, 7], TOKENS, logprobs=3)
    finish(library(model), stream)
    with torch.inference_mode():
        chances = reference(torch.tensor([[5, 6, 7, *stream.tokens]])).logits[0, 2:-1].float().log_softmax(-1)
    for row, drawn in zip(chances, stream.drawn, strict=True):
        assert drawn.logprob == pytest.approx(float(row[drawn.token]), abs=1e-3)


def test_an_error_is_that_of_one_sequence(model):
    wrong, right = heard([5000], 4), heard([5], 4)
    finish(library(model), wrong, right)
    assert (wrong.error.status, wrong.error.code) == (500, "engine_error")
    assert len(right.tokens) == 4


def test_one_that_waits_ends_within_a_token_of_the_one_that_runs(model):
    """The other's client leaves while the first is at its second token."""
    loop = library(model)
    waiting = heard([5], 4)

    class Watching(Heard):
        def put(self, item):
            super().put(item)
            if len(self.tokens) == 2:
                waiting.cancelled.set()
            if len(self.tokens) == 3:
                self.ended_meanwhile = waiting.ended

    first = Watching(heard([9], TOKENS).sequence)
    finish(loop, first, waiting)
    assert first.ended_meanwhile
    assert (waiting.finish.reason, waiting.tokens) == ("cancelled", [])
    assert len(first.tokens) == TOKENS


def test_the_warm_up_raises_what_the_model_raises(known):
    broken = make(known)
    library(broken).warm()
    broken.lm_head.weight = torch.nn.Parameter(torch.zeros(128, 7))
    with pytest.raises(RuntimeError, match="shape"):
        library(broken).warm()
