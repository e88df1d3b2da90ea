"""Models whose states cannot be cut: what was computed is used again from the places where it was marked."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worker.engine.architectures import ARCHITECTURES, make
from tests.worker.engine.driving import Watched, batch, finish, generated, heard, steps, submit, way

from bainmarie_worker.engine.marks import Marks
from bainmarie_worker.engine.sequence import Sampling

ALIKE = 100
"""Tokens that all conversations here begin with."""
ASKING = 16
TOKENS = 6


def tokens(seed, count):
    return random.Random(seed).choices(range(3, 128), k=count)


def asked(seed, count=40):
    return heard([*tokens(0, ALIKE), *tokens(seed, count)], TOKENS)


class Pot:
    def __init__(self, known):
        self.forward = way(make(known))
        assert not self.forward.crops
        self._reference = make(known)

    def check(self, *streams):
        for stream in streams:
            assert stream.tokens == generated(self._reference, stream.sequence.prompt, TOKENS)


WITH_STATES = ("qwen3_5_text", "lfm2", "granitemoehybrid", "falcon_h1", "nemotron_h", "mamba2")
UNCUT = [known for known in ARCHITECTURES if known.path == "apart" or known.name in WITH_STATES]


@pytest.fixture(scope="module", params=UNCUT, ids=lambda known: known.title)
def pot(request):
    return Pot(request.param)


def test_the_third_of_those_that_begin_alike_begins_where_the_second_parted(pot):
    work = batch(pot.forward)
    streams = [asked(seed) for seed in range(1, 5)]
    for stream in streams:
        finish(work, stream)
    pot.check(*streams)
    assert [stream.finish.cached for stream in streams] == [0, 0, ALIKE, ALIKE]


def test_of_many_at_once_one_computes_what_they_share(pot):
    watched = Watched(pot.forward)
    streams = [asked(seed) for seed in range(1, 6)]
    finish(batch(watched, speculate=False), *streams)
    pot.check(*streams)
    assert watched.computed == ALIKE + len(streams) * (40 + TOKENS - 1)


def test_nobody_waits_for_one_that_is_past_what_they_share(pot):
    work = batch(pot.forward)
    first, late = asked(1, 2000), asked(2)
    submit(work, first)
    steps(work, 1)
    submit(work, late)
    while not late.ended:
        steps(work, 1)
    assert not first.ended
    pot.check(late)
    assert late.finish.cached == 0


def test_an_answer_that_is_left_out_of_the_next_turn(pot):
    """With its thoughts, which the prompt's last tokens had asked for."""
    work = batch(pot.forward)
    first = asked(1)
    finish(work, first)
    next_turn = heard([*first.sequence.prompt[:-5], *tokens(7, 30)], TOKENS)
    finish(work, next_turn)
    again = heard(first.sequence.prompt, TOKENS)
    finish(work, again)
    pot.check(first, next_turn, again)
    whole = len(first.sequence.prompt)
    assert next_turn.finish.cached == again.finish.cached == whole - ASKING


def test_an_answer_that_is_gone_on_with(pot):
    work = batch(pot.forward)
    first, beside = asked(1), asked(2)
    finish(work, first)
    finish(work, beside)
    told = [*first.sequence.prompt, *first.tokens]
    more = heard([*told, *tokens(3, 10)], TOKENS)
    finish(work, more)
    pot.check(first, beside, more)
    assert more.finish.cached == len(told) - 1


def test_an_answer_that_is_gone_on_with_in_two_ways(pot):
    work = batch(pot.forward)
    first = asked(1, 200)
    finish(work, first)
    told = [*first.sequence.prompt, *first.tokens]
    ways = [heard([*told, *tokens(seed, 100)], TOKENS) for seed in (3, 4)]
    for way_on in ways:
        finish(work, way_on)
    pot.check(first, *ways)
    assert [stream.finish.cached for stream in ways] == [len(told) - 1] * 2


CIRCLE = Sampling(logit_bias=((9, 500.0),))
"""Answers are of one token, so that guesses are right, and wrong where a prompt has had that token before another."""
CIRCLING = [*tokens(0, ALIKE), *[9] * 3, 8, *[9] * 3]


GUESSING = [known for known in UNCUT if known.path == "fused"]


@pytest.fixture(scope="module", params=GUESSING, ids=lambda known: known.title)
def guessing(request):
    """Of those the ones whose guesses can be taken back."""
    return Pot(request.param)


@pytest.mark.parametrize("length", range(1, 24, 2))
def test_an_answer_with_right_and_wrong_guesses_that_is_gone_on_with(guessing, length):
    watched = Watched(guessing.forward)
    work = batch(watched)
    first = heard(CIRCLING, length, CIRCLE)
    finish(work, first)
    assert first.tokens == [9] * length
    assert (watched.guessed > 0) == (length > 1)
    assert (watched.draws < length) == (length > 2)
    told = [*CIRCLING, *first.tokens]
    ways = [heard([*told, *tokens(seed, 10)], TOKENS) for seed in (3, 4)]
    for way_on in ways:
        finish(work, way_on)
        guessing.check(way_on)
    assert [stream.finish.cached for stream in ways] == [len(told) - 1] * 2


@pytest.mark.parametrize("made", range(1, 8))
def test_what_a_cancelled_answer_with_guesses_has_left(guessing, made):
    watched = Watched(guessing.forward)
    work = batch(watched)
    first, beside = heard(CIRCLING, 60, CIRCLE), asked(2)
    submit(work, first, beside)
    steps(work, 4 + made)
    first.cancelled.set()
    finish(work)
    assert first.tokens == [9] * len(first.tokens)
    assert len(first.tokens) > watched.draws - len(beside.tokens) > 0, "right guesses were made"
    told = [*CIRCLING, *first.tokens]
    more = heard([*told, *tokens(3, 10)], TOKENS)
    finish(work, more)
    guessing.check(more)
    guessing.check(beside)
    assert more.finish.cached == len(told) - 1


def test_a_pass_with_guesses_ends_at_a_mark_that_another_wants(guessing):
    watched = Watched(guessing.forward)
    work = batch(watched)
    told = tokens(0, 25) * 4
    streams = [heard(ids, TOKENS, CIRCLE) for ids in (told, [*told, 5, 6], [*told[:-1], 7, 8])]
    finish(work, *streams)
    late = heard([*told, 8, 9], TOKENS)
    finish(work, late)
    assert watched.guessed > 0
    assert [stream.tokens for stream in streams] == [[9] * TOKENS] * 3
    guessing.check(late)
    assert late.finish.cached == len(told)


@given(st.sets(st.integers(1, 1000), min_size=1, max_size=20), st.integers(0, 1000))
def test_the_nearest_mark_is_one_before(lengths, asked):
    marks = Marks()
    for length in sorted(lengths):
        marks.keep(length, f"state of {length}")
    found = marks.nearest(asked)
    assert found <= asked
    assert found == 0 or marks.at(found) == f"state of {found}"
    assert marks.nearest(max(lengths)) == max(lengths)
    assert marks.until(asked).nearest(1000) == found
    assert len(marks.states) == min(len(lengths), 6)


def test_of_too_many_marks_the_one_goes_whose_neighbour_is_near():
    marks = Marks()
    for length in (1000, 1900, 2000, 3000, 4000, 5000, 6000):
        marks.keep(length, None)
    assert [marks.nearest(length) for length in (1000, 1950, 2500, 6000)] == [1000, 1900, 1900, 6000]
