"""Token for token what transformers' own `generate()` gives, greedy in float32, whatever else the engine is doing."""

from __future__ import annotations

import random

import pytest
from tests.worker.engine.architectures import APART, ARCHITECTURES, CAPTURED, make
from tests.worker.engine.driving import (
    CPU,
    Heard,
    Watched,
    batch,
    captured_way,
    finish,
    generated,
    generated_together,
    heard,
    steps,
    submit,
    way,
)

from bainmarie_worker.engine.sequence import Sampling
from bainmarie_worker.engine.ways import best_way

LENGTHS = (1, 2, 5, 9, 17, 33, 60, 21)
TOKENS = 12


class Pot:
    """One architecture: the model that is served, and a second one that nothing has touched."""

    def __init__(self, known):
        self.known = known
        self.reference = make(known)
        if known in APART:
            self.forward = best_way(make(known), CPU, known.path)
        else:
            self.forward = captured_way(make(known)) if known.path == "captured" else way(make(known))
        self._answers = {}

    def watched(self):
        return Watched(self.forward)

    def answer(self, prompt, tokens=TOKENS):
        key = (tuple(prompt), tokens)
        if key not in self._answers:
            self._answers[key] = generated(self.reference, prompt, tokens)
        return self._answers[key]

    def check(self, *streams: Heard):
        for stream in streams:
            assert stream.tokens == self.answer(stream.sequence.prompt, stream.sequence.max_tokens)


@pytest.fixture(scope="module", params=(*ARCHITECTURES, *CAPTURED, *APART), ids=lambda known: known.title)
def pot(request):
    return Pot(request.param)


def prompts(seed=5):
    chance = random.Random(seed)
    return [[chance.randrange(3, 128) for _ in range(length)] for length in LENGTHS]


def other(token):
    return 3 + (token + 1) % 125


def test_it_goes_the_way_it_should(pot):
    assert pot.forward.path == pot.known.path, pot.forward.why
    assert pot.known.why in pot.forward.why
    assert (pot.forward.why == "") == (pot.known.path in ("fused", "captured"))
    assert pot.forward.packs == (pot.known.path != "apart")


def test_answers_depend_on_their_prompts(pot):
    """Else the tests below would prove little."""
    assert len({tuple(pot.answer(prompt)) for prompt in prompts()}) == len(LENGTHS)


def test_alone(pot):
    for prompt in prompts():
        stream = heard(prompt)
        finish(batch(pot.forward), stream)
        pot.check(stream)
        assert (stream.finish.reason, stream.finish.generated, stream.finish.cached) == ("length", TOKENS, 0)


def test_in_a_batch_of_eight_with_different_lengths(pot):
    watched = pot.watched()
    streams = [heard(prompt) for prompt in prompts()]
    finish(batch(watched), *streams)
    pot.check(*streams)
    assert max(len(parts) for parts in watched.passes) == 8


def test_joining_late(pot):
    watched = pot.watched()
    work = batch(watched, speculate=False)
    streams = [heard(prompt) for prompt in prompts()]
    for stream in streams:
        submit(work, stream)
        steps(work, 2)
    finish(work)
    pot.check(*streams)
    assert [stream.finish.cached for stream in streams] == [0] * 8
    assert {len(parts) for parts in watched.passes} >= {1, 3, 5}


def test_a_fork_at_every_position(pot):
    """The latest fork first: each is cut off the one before it."""
    work = batch(pot.forward, speculate=False)
    first = heard(prompts()[3])
    finish(work, first)
    told = [*first.sequence.prompt, *first.tokens]
    for place in range(len(told) - 1, 0, -1):
        fork = heard([*told[:place], other(told[place]), 7], 3)
        finish(work, fork)
        pot.check(fork)
        if pot.forward.crops:
            assert fork.finish.cached == place


def test_a_fork_at_every_position_of_what_is_kept(pot):
    """The earliest fork first: each is a copy, and the conversation can be gone on with in the end."""
    work = batch(pot.forward, speculate=False)
    first = heard(random.Random(1).choices(range(3, 128), k=90), 6)
    finish(work, first)
    told = [*first.sequence.prompt, *first.tokens]
    for place in range(1, 24):
        fork = heard([*told[:place], other(told[place]), 7], 3)
        finish(work, fork)
        pot.check(fork)
        if pot.forward.crops:
            assert fork.finish.cached == place
    more = heard([*told, 9, 8], 4)
    finish(work, more)
    pot.check(first, more)
    assert more.finish.cached == len(told) - 1


def test_with_guesses(pot):
    watched = pot.watched()
    streams = [heard([9, 8, 7, 6] * 12, 24), heard([5] * 20, 24), heard(repeating(pot), 32)]
    finish(batch(watched), *streams)
    pot.check(*streams)
    drawn = sum(len(stream.tokens) for stream in streams)
    if pot.forward.crops:
        assert watched.guessed >= drawn - watched.draws > 0, "guesses were made, and right ones were taken"
    if not pot.forward.guesses:
        assert (watched.guessed, watched.draws) == (0, drawn)


def repeating(pot):
    """A prompt whose answer soon repeats three tokens; for a model with a state, which forgets no token, any."""
    chance = random.Random(4)
    asked = [chance.choices(range(3, 128), k=6) for _ in range(64 if pot.forward.crops else 1)]
    for prompt, answer in zip(asked, generated_together(pot.reference, asked, 28), strict=True):
        told = [*prompt, *answer]
        threes = [tuple(told[place : place + 3]) for place in range(len(told) - 2)]
        if not pot.forward.crops or any(three in threes[:place] for place, three in enumerate(threes)):
            return prompt
    raise AssertionError("no answer repeats anything")


def test_with_guesses_some_of_which_are_right(pot):
    """Of three tokens, so that what comes next is often what came before, and often not."""
    bias = {(token,): 30.0 for token in (40, 50, 60)}
    sampling = Sampling(logit_bias=tuple((token, value) for (token,), value in bias.items()))
    streams = [heard([*prompt, 40, 50, 60], 40, sampling) for prompt in prompts()[:4]]
    watched = pot.watched()
    finish(batch(watched), *streams)
    for stream in streams:
        assert stream.tokens == generated(pot.reference, stream.sequence.prompt, 40, sequence_bias=bias)
    right = 40 * len(streams) - watched.draws
    if not pot.forward.guesses:
        assert watched.guessed == right == 0
        return
    assert right > 0
    assert watched.guessed > right or pot.forward.crops, "nothing was taken back"


def test_after_a_neighbour_was_cancelled(pot):
    work = batch(pot.forward, speculate=False)
    streams = [heard(prompt) for prompt in prompts()[2:6]]
    submit(work, *streams)
    steps(work, 4)
    streams[1].cancelled.set()
    steps(work, 1)
    assert streams[1].finish.reason == "cancelled"
    assert work.running == 3
    finish(work)
    left = streams.pop(1)
    pot.check(*streams)
    assert 0 < len(left.tokens) < TOKENS
    assert left.tokens == pot.answer(left.sequence.prompt)[: len(left.tokens)]
    again = heard(left.sequence.prompt)
    finish(work, again)
    pot.check(again)


def test_with_so_little_memory_that_it_evicts_and_preempts(pot):
    one = pot.watched()
    work = batch(one)
    finish(work, heard(prompts()[6]))
    longest = one.held
    watched = pot.watched()
    most = longest * (3 if pot.known.path in ("captured", "apart") else 5) // 2  # small pages hold more, marks are held
    work = batch(watched, most)
    for again in (False, True):
        streams = [heard(prompt) for prompt in prompts()]
        finish(work, *streams)
        pot.check(*streams)
        grows = pot.known.title != "mamba2-fused"  # else who has begun has all that it will need
        assert again or not grows or watched.memories > len(streams), "nothing was preempted"
        assert longest <= watched.held <= most, "what is kept is within the bound"
