from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from bainmarie_worker.engine.lookup import Lookup

IDS = st.lists(st.integers(0, 4), max_size=60)


def first_place(ids):
    """Where the slow way finds what followed the longest known end (4, 3, then 2 tokens), the latest time."""
    for width in (4, 3, 2):
        for place in range(len(ids) - 1, width - 1, -1):
            if ids[place - width : place] == ids[len(ids) - width :]:
                return place
    return None


@given(IDS, st.integers(1, 16))
def test_it_guesses_what_followed_the_last_time(ids, most):
    guess = Lookup(ids).guess(most)
    place = first_place(ids)
    if place is None:
        assert guess == []
        return
    known = list(ids)
    for token in guess:
        assert token == known[place]
        known.append(token)
        place += 1
    assert len(guess) == min(4, most)


@given(IDS, st.lists(IDS, max_size=5))
def test_tokens_can_come_in_pieces(first, more):
    piecewise = Lookup(first)
    for piece in more:
        piecewise.extend(piece)
    assert piecewise.guess(8) == Lookup([*first, *chain.from_iterable(more)]).guess(8)


@given(IDS, st.integers(-3, 3))
def test_never_more_than_asked_for(ids, most):
    assert len(Lookup([1, 2, 3, 1, 2, 3, *ids]).guess(most)) <= max(most, 0)


def test_right_guesses_make_the_next_ones_longer_up_to_16():
    lookup = Lookup([1, 2, 3] * 4)
    lengths = []
    for _ in range(4):
        guess = lookup.guess(100)
        lengths.append(len(guess))
        lookup.learn(len(guess), len(guess), 1.0, 0.1)
    assert lengths == [4, 8, 16, 16]


def test_a_wrong_guess_makes_the_next_one_as_short_as_what_was_right():
    lookup = Lookup([1, 2, 3] * 4)
    lookup.learn(4, 1, 1.0, 0.1)
    assert len(lookup.guess(100)) == 2


def test_guesses_that_do_not_pay_stop_for_a_while_and_longer_the_next_time():
    lookup = Lookup([1, 2, 3] * 4)
    pauses = []
    for _ in range(3):
        for _ in range(4):
            assert lookup.guess(4)
            lookup.learn(4, 0, 1.0, 0.5)
        pause = 0
        while not lookup.guess(4):
            lookup.extend([1 + (pause % 3)])
            pause += 1
        pauses.append(pause)
    assert pauses[0] >= 16
    assert pauses[1] >= 32
    assert pauses[2] >= 64


def test_guesses_that_pay_never_stop():
    lookup = Lookup([1, 2, 3] * 4)
    for _ in range(100):
        assert lookup.guess(4)
        lookup.learn(4, 2, 1.0, 0.4)
