"""The batch over a small real program in the place of a model: what fails, waits and ends when."""

from __future__ import annotations

import pytest
import torch
from tests.worker.engine.driving import Watched, batch, finish, heard, steps, submit

from bainmarie_worker.engine.captured.pages import Pages, Pool
from bainmarie_worker.engine.keys_values import KeysValues
from bainmarie_worker.engine.memory import NoRoom
from bainmarie_worker.engine.sequence import Sampling
from bainmarie_worker.errors import RequestError

VOCABULARY = 100
POISON = 66


class Counting:
    """Implements `Forward`: after token n comes n + 1, round and round. It chokes on one token."""

    path = "counting"
    why = ""
    crops = True
    guesses = True

    def __init__(self, packs=True):
        self.packs = packs
        self.freed = 0
        self.error = ValueError

    def memory(self):
        return KeysValues()

    def run(self, parts):
        if self.packs and any(POISON in part.tokens for part in parts):
            return [self.error("out of memory: poison")] * len(parts)
        return [self._one(part) for part in parts]

    def free(self):
        self.freed += 1

    def _one(self, part):
        if POISON in part.tokens:
            return self.error("out of memory: poison")
        column = torch.tensor(part.tokens, dtype=torch.float32)[None, :, None]
        part.memory.write(0, column, column)
        part.memory.length += len(part.tokens)
        logits = torch.zeros(part.wanted, VOCABULARY)
        for row, token in zip(logits, part.tokens[len(part.tokens) - part.wanted :], strict=True):
            row[(token + 1) % VOCABULARY] = 1
        return logits


def counted(stream):
    last = stream.sequence.prompt[-1]
    return [(last + 1 + number) % VOCABULARY for number in range(stream.sequence.max_tokens)]


@pytest.mark.parametrize("packs", [True, False])
def test_a_pass_that_fails_for_one_fails_only_that_one(packs):
    work = batch(Counting(packs))
    first, second = heard([1], 20), heard([30, 2], 20)
    submit(work, first, second)
    steps(work, 3)
    wrong = heard([5, POISON, 7], 20)
    finish(work, wrong)
    assert wrong.tokens == []
    assert (wrong.error.status, wrong.error.code) == (500, "engine_error")
    assert "poison" in wrong.error.message
    assert first.tokens == counted(first)
    assert second.tokens == counted(second)


def test_one_that_fails_in_the_middle_of_its_answer():
    work = batch(Counting())
    wrong, right = heard([POISON - 3], 20), heard([1], 20)
    finish(work, wrong, right)
    assert wrong.tokens == [POISON - 2, POISON - 1, POISON]
    assert wrong.error.code == "engine_error"
    assert right.tokens == counted(right)


def test_a_sampler_that_cannot_be_made_fails_only_its_own():
    work = batch(Counting())
    wrong, right = heard([1], 4, Sampling(temperature=1.0, seed=1 << 80)), heard([1], 4)
    finish(work, wrong, right)
    assert wrong.error.code == "engine_error"
    assert right.tokens == counted(right)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 1}])
def test_one_that_cannot_be_drawn_for_fails_alone(settings):
    """Its bias names a token that the model does not have."""
    work = batch(Counting())
    sampling = Sampling(logit_bias=((VOCABULARY, 1.0),), **settings)
    wrong, right = heard([3], 5, sampling), heard([1], 20)
    finish(work, wrong, right)
    assert (wrong.error.status, wrong.tokens) == (500, [])
    assert right.tokens == counted(right)


def test_nothing_of_a_failed_one_is_kept():
    work = batch(Counting())
    finish(work, heard([1, 2, 3, POISON], 4))
    again = heard([1, 2, 3, 4], 4)
    finish(work, again)
    assert again.finish.cached == 0


def test_a_step_with_nothing_to_do_does_nothing():
    watched = Watched(Counting())
    work = batch(watched)
    steps(work, 3)
    assert watched.passes == []
    assert not work.busy


def test_a_cancelled_one_ends_within_one_step_wherever_it_is():
    work = batch(Counting(), speculate=False)
    running, waiting = heard([1], 50), heard([40], 50)
    submit(work, running)
    steps(work, 2)
    submit(work, waiting)
    for stream in (running, waiting):
        stream.cancelled.set()
    steps(work, 1)
    assert (running.finish.reason, running.finish.generated) == ("cancelled", 2)
    assert (waiting.finish.reason, waiting.finish.generated) == ("cancelled", 0)
    assert not work.busy


def test_a_cancelled_one_that_was_preempted_ends_too():
    watched = Watched(Counting())
    one = heard([1], 2)
    finish(batch(watched), one)
    work = batch(watched, watched.held * 3 // 2 or 700)
    streams = [heard([number], 50) for number in range(5)]
    submit(work, *streams)
    steps(work, 3)
    assert work.running < 5
    for stream in streams:
        stream.cancelled.set()
    steps(work, 1)
    assert [stream.finish.reason for stream in streams] == ["cancelled"] * 5
    assert not work.busy


def test_what_a_cancelled_one_has_computed_is_used_again():
    work = batch(Counting())
    left = heard(list(range(30)), 50)
    submit(work, left)
    steps(work, 3)
    left.cancelled.set()
    steps(work, 1)
    again = heard(list(range(30)), 2)
    finish(work, again)
    assert again.finish.cached == 29


def test_generating_ones_get_a_token_in_every_pass_beside_a_long_prompt():
    watched = Watched(Counting())
    work = batch(watched, speculate=False)
    short = heard([1], 40)
    submit(work, short)
    steps(work, 2)
    submit(work, heard([7] * 2000, 1))
    for _ in range(5):
        before = len(short.tokens)
        steps(work, 1)
        assert len(short.tokens) == before + 1
        assert sum(tokens for tokens, _ in watched.passes[-1]) <= 257
    finish(work)


def test_a_short_turn_comes_before_the_end_of_a_long_prompt():
    work = batch(Counting())
    long, short = heard([7] * 3000, 1), heard([5, 6], 1)
    submit(work, long)
    steps(work, 1)
    submit(work, short)
    steps(work, 2)
    assert short.ended
    assert not long.ended
    finish(work)


def test_who_asks_the_same_as_another_that_is_being_computed_waits_for_it():
    watched = Watched(Counting())
    work = batch(watched)
    prompt = [number % 60 for number in range(600)]
    streams = [heard([*prompt, last], 3) for last in (1, 2, 3)]
    finish(work, *streams)
    assert [stream.tokens for stream in streams] == [counted(stream) for stream in streams]
    assert [stream.finish.cached for stream in streams] == [0, 600, 600]
    assert watched.computed < 700


def test_at_most_64_run_at_once_and_all_are_answered():
    watched = Watched(Counting())
    work = batch(watched)
    streams = [heard([number % 60], 5) for number in range(150)]
    submit(work, *streams)
    steps(work, 1)
    assert work.running == 64
    finish(work)
    assert [stream.tokens for stream in streams] == [counted(stream) for stream in streams]


def test_they_begin_in_the_order_in_which_they_came():
    work = batch(Counting(), speculate=False)
    streams = [heard([number % 60], 3) for number in range(150)]
    submit(work, *streams)
    begun = []
    while work.busy:
        steps(work, 1)
        begun += [place for place, stream in enumerate(streams) if stream.items and place not in begun]
    assert begun == sorted(begun)


def test_out_of_memory_gives_back_what_is_kept():
    forward = Counting()
    work = batch(forward, describe=lambda error, stream: RequestError(507, str(error), code="out_of_memory"))
    kept = heard([1, 2, 3], 2)
    finish(work, kept)
    wrong = heard([POISON], 2)
    finish(work, wrong)
    assert wrong.error.code == "out_of_memory"
    assert forward.freed == 1
    again = heard([1, 2, 3], 2)
    finish(work, again)
    assert again.finish.cached == 0


class Paged(Counting):
    """Its memories share so many pages of four tokens."""

    def __init__(self, pages):
        super().__init__()
        like = KeysValues()
        like.reserve(4)
        like.write(0, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
        self.pool = Pool(like, (pages + 1) * 4 * 8, page=4)

    def memory(self):
        return Pages(self.pool)

    def _one(self, part):
        try:
            part.memory.reserve(part.memory.length + len(part.tokens))
        except NoRoom as error:
            return error
        return super()._one(part)


def test_where_a_pass_has_no_room_the_youngest_waits():
    forward = Paged(6)
    work = batch(forward, forward.pool.bytes)
    streams = [heard([10 * number, 10 * number + 1], 18) for number in range(1, 5)]
    finish(work, *streams)
    assert [stream.tokens for stream in streams] == [counted(stream) for stream in streams]
    assert min(len(stream.tokens) for stream in streams) == 18


def test_what_is_kept_goes_before_the_one_that_needs_its_room():
    forward = Paged(6)
    work = batch(forward, forward.pool.bytes)
    kept, large = heard([50, 51], 9), heard([1, 2], 20)
    finish(work, kept)
    finish(work, large)
    assert large.tokens == counted(large)


def test_one_that_is_larger_than_all_the_room_fails_and_the_next_is_answered():
    forward = Paged(6)
    work = batch(forward, forward.pool.bytes, describe=lambda error, stream: RequestError(507, str(error), code="oom"))
    large, small = heard([1, 2], 60), heard([1, 2, 3], 5)
    finish(work, large)
    assert "all 6 pages of 4 tokens are taken" in large.error.message
    finish(work, small)
    assert small.tokens == counted(small)
