"""With real memories of keys and values, whose numbers are the tokens themselves."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from bainmarie_worker.engine.keys_values import KeysValues
from bainmarie_worker.engine.own_passes import CHUNK
from bainmarie_worker.engine.prefixes import Kind, Prefixes, common

IDS = st.lists(st.integers(0, 2), min_size=1, max_size=150)
BASE, A, OWN_A = Kind(), Kind("a"), Kind("a", own=True)
KINDS = st.sampled_from([BASE, A, Kind("b")])


class Stiff(KeysValues):
    """Can be cut in the middle alone, as a recurrent state that was marked there."""

    def nearest(self, length):
        return max((place for place in (self.length // 2, self.length) if place <= length), default=0)

    def crop(self, length):
        assert length == self.nearest(length)
        super().crop(length)

    def copy(self, length):
        assert length == self.nearest(length)
        return super().copy(length)


def memory(ids, like=KeysValues):
    made = like()
    numbers = torch.tensor(ids, dtype=torch.float32)[None, :, None]
    for layer in range(2):
        made.write(layer, numbers, numbers + layer)
    made.length = len(ids)
    return made


def held(memory):
    """The tokens that a memory stands for."""
    keys, values = memory.read(1, 0, memory.length)
    assert torch.equal(values, keys + 1)
    return [int(number) for number in keys[0, :, 0]]


def kept(*conversations, kind=BASE, made=KeysValues):
    prefixes = Prefixes()
    for ids in conversations:
        prefixes.put(kind, ids, memory(ids, made))
    return prefixes


@given(st.lists(st.tuples(KINDS, IDS), max_size=6), st.lists(st.tuples(KINDS, IDS), max_size=4))
def test_what_is_taken_holds_the_longest_beginning_of_the_same_kind(conversations, asked):
    prefixes = Prefixes()
    for kind, ids in conversations:
        prefixes.put(kind, ids, memory(ids))
    for kind, ids in asked:
        best = min(prefixes.longest(kind, ids), len(ids) - 1)
        length, found = prefixes.take(kind, ids)
        assert length == best
        if found is None:
            assert length == 0
            continue
        assert length == found.length
        assert held(found) == ids[:length]
        prefixes.put(kind, ids[:length], found)


@given(IDS, IDS)
def test_what_can_be_cut_at_some_places_is_cut_at_the_nearest(told, asked):
    length, found = kept(told, made=Stiff).take(BASE, asked)
    shared = common(told, asked[:-1])
    assert length == (len(told) if shared == len(told) else len(told) // 2 if shared >= len(told) // 2 else 0)
    assert length == 0 if found is None else held(found) == asked[:length]


@given(st.lists(IDS, max_size=8), st.integers(0, 200_000))
def test_shrink_keeps_the_latest_within_the_bound(conversations, most):
    prefixes = kept(*conversations)
    before = prefixes.bytes
    prefixes.shrink(most)
    assert prefixes.bytes <= most or before == 0
    if conversations and prefixes.bytes:
        assert prefixes.longest(BASE, conversations[-1]) == len(conversations[-1])


def test_a_long_rest_stays_where_it_is_and_a_short_one_is_handed_on():
    told = [n % 7 for n in range(200)]
    prefixes = kept(told)
    length, copied = prefixes.take(BASE, [*told[:100], 9])
    assert (length, prefixes.longest(BASE, told)) == (100, 200)
    copied.write(0, torch.full((1, 1, 1), 5.0), torch.zeros(1, 1, 1))
    copied.length += 1
    length, found = prefixes.take(BASE, [*told[:180], 9])
    assert (length, held(found)) == (180, told[:180])
    assert prefixes.longest(BASE, told) == 0


def test_one_token_is_left_to_compute():
    told = [1, 2, 3, 4]
    length, found = kept(told).take(BASE, told)
    assert (length, held(found)) == (3, [1, 2, 3])


def test_a_beginning_of_a_longer_one_is_dropped_and_another_branch_is_not():
    prefixes = kept([1, 2], [1, 3, 3], [1, 2, 3])
    assert prefixes.bytes == 2 * memory([1]).bytes
    assert prefixes.longest(BASE, [1, 3, 3]) == 3
    assert prefixes.longest(BASE, [1, 2, 3]) == 3


def test_the_best_is_the_one_that_can_be_cut_best():
    prefixes = kept([1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5], [1, 2, 9], made=Stiff)
    assert prefixes.shared(BASE, [1, 2, 3, 4, 5, 6, 7, 9]) == 7
    assert prefixes.longest(BASE, [1, 2, 3, 4, 5, 6, 7, 9]) == 5
    length, found = prefixes.take(BASE, [1, 2, 3, 4, 5, 6, 7, 9])
    assert (length, held(found)) == (5, [1, 2, 3, 4, 5])
    length, found = prefixes.take(BASE, [1, 2, 3, 4, 5, 6, 7, 9])
    assert (length, held(found)) == (4, [1, 2, 3, 4])
    assert prefixes.longest(BASE, [1, 2, 8]) == 1


def test_drop_forgets_one_adapter():
    told = [n % 7 for n in range(CHUNK)]
    prefixes = kept(told)
    for kind in (A, OWN_A):
        prefixes.put(kind, told, memory(told))
    prefixes.drop("a")
    assert [prefixes.longest(kind, told) for kind in (A, OWN_A, BASE)] == [0, 0, CHUNK]


def test_those_with_passes_of_their_own_begin_with_whole_chunks_and_share_with_no_others():
    told = [n % 7 for n in range(3 * CHUNK)]
    prefixes = kept(told, kind=OWN_A)
    assert prefixes.take(A, told) == (0, None)
    for asked, most in ((CHUNK, 0), (CHUNK + 1, CHUNK), (3 * CHUNK - 1, 2 * CHUNK), (3 * CHUNK, 2 * CHUNK)):
        length, found = prefixes.take(OWN_A, told[:asked])
        assert length == most
        assert found is None or held(found) == told[:most]
    length, found = prefixes.take(OWN_A, [*told, 3])
    assert (length, held(found)) == (3 * CHUNK, told)


@given(st.lists(st.integers(0, 1), max_size=1200), st.lists(st.integers(0, 1), max_size=5), st.integers(0, 1200))
def test_common_is_the_longest_common_beginning(left, tail, place):
    right = [*left[:place], *tail]
    length = common(left, tuple(right))
    assert left[:length] == right[:length]
    assert length == min(len(left), len(right)) or left[length] != right[length]
