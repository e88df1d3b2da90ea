from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bainmarie_worker.engine.scheduler import ALONE, BESIDE, plan, turns

TODO = st.lists(st.integers(1, 3000), min_size=1, max_size=64)
BUDGET = st.integers(4, 1024)


@given(TODO, BUDGET)
def test_nobody_gets_more_than_there_is_to_do(todo, budget):
    counts = plan(todo, budget)
    assert len(counts) == len(todo)
    assert all(0 <= count <= left for count, left in zip(counts, todo, strict=True))


@given(TODO, BUDGET)
def test_who_generates_always_gets_the_token(todo, budget):
    assert all(count == 1 for count, left in zip(plan(todo, budget), todo, strict=True) if left == 1)


@given(TODO, BUDGET)
def test_prompts_together_take_the_budget_and_little_more(todo, budget):
    prompts = [(count, left) for count, left in zip(plan(todo, budget), todo, strict=True) if left > 1]
    short = sum(left for _, left in prompts if left <= budget or len(todo) == 1)
    half = min(budget // 2, sum(left for _, left in prompts))
    least = max(min(budget, short), half)
    assert least <= sum(count for count, _ in prompts) <= least + max(1, budget // 8)


@given(TODO, BUDGET)
def test_the_oldest_prompt_gets_an_eighth_at_least(todo, budget):
    prompts = [(count, left) for count, left in zip(plan(todo, budget), todo, strict=True) if left > 1]
    if prompts:
        count, left = prompts[0]
        assert count >= min(left, budget // 8)


@given(TODO, BUDGET)
def test_a_shorter_prompt_is_not_cut_for_a_longer_one(todo, budget):
    """Apart from the oldest."""
    counts = plan(todo, budget)
    prompts = [(count, left) for count, left in zip(counts, todo, strict=True) if left > 1][1:]
    for count, left in prompts:
        if count < left:
            assert all(more == 0 for more, longer in prompts if longer > left)


@given(st.integers(2, 5000), st.lists(st.integers(2, 60), max_size=30), BUDGET)
def test_a_long_prompt_ends_however_many_short_ones_come(long, short, budget):
    """In every pass as many new short ones as there were before."""
    passes = 0
    while long > 1:
        before = long
        long -= plan([long, *short], budget)[0]
        assert long < before
        passes += 1
    assert passes <= -(-5000 // max(1, budget // 8))


def test_a_short_turn_does_not_wait_for_a_long_prompt():
    assert plan([4000, 1, 30], BESIDE) == [98, 1, 30]
    assert plan([4000, 1], BESIDE) == [128, 1]
    assert plan([4000, 1, 256], BESIDE) == [32, 1, 256]
    assert plan([4000], ALONE) == [ALONE]
    assert plan([1, 1, 1], BESIDE) == [1, 1, 1]


@given(TODO)
def test_with_passes_of_their_own_all_who_generate_move_and_of_the_prompts_the_oldest_and_the_shortest(todo):
    chosen = turns(todo)
    assert chosen == sorted(set(chosen))
    prompts = [place for place in chosen if todo[place] > 1]
    assert [place for place in chosen if todo[place] == 1] == [place for place, left in enumerate(todo) if left == 1]
    if max(todo) > 1:
        assert prompts[0] == next(place for place, left in enumerate(todo) if left > 1)
        assert min(left for left in todo if left > 1) in [todo[place] for place in prompts]
    assert len(prompts) <= 2
