from __future__ import annotations

import pytest
import torch

from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Sampling
from bainmarie_worker.errors import RequestError

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.0, 3.0, 2.0, 1.0, -1.0])


def drawn(count=300, prompt=(), logits=LOGITS, **settings):
    """The set of tokens that many independent draws give."""
    sampler = Sampler(Sampling(**{"temperature": 1.0, "seed": 1, **settings}), prompt, CPU)
    return {sampler.pick(logits) for _ in range(count)}


def test_temperature_0_takes_the_likeliest():
    assert drawn(temperature=0) == {1}


def test_temperature_widens_and_narrows():
    assert drawn(temperature=0.05) == {1}
    assert drawn(temperature=50.0) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_top_k_leaves_the_k_likeliest(count):
    assert drawn(temperature=5.0, top_k=count) == set([1, 2, 3][:count])


def test_top_p_leaves_the_fewest_that_reach_it():
    weights = LOGITS.softmax(-1)
    assert drawn(top_p=float(weights[1]) - 0.01) == {1}
    assert drawn(top_p=float(weights[1]) + 0.01) == {1, 2}
    assert drawn(top_p=0.0) == {1}


def test_top_k_and_top_p_together():
    assert drawn(temperature=50.0, top_k=3, top_p=0.5) == {1, 2}


def test_min_p_is_relative_to_the_likeliest():
    assert drawn(temperature=1.0, min_p=0.3) == {1, 2}


def test_a_seed_repeats_and_none_varies():
    def draw(seed):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), (), CPU)
        return [sampler.pick(torch.zeros(1000)) for _ in range(20)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert draw(None) != draw(None)


def test_repetition_penalty_counts_the_prompt():
    assert Sampler(Sampling(repetition_penalty=2.0), (1,), CPU).pick(LOGITS) == 2
    assert Sampler(Sampling(repetition_penalty=2.0), (), CPU).pick(LOGITS) == 1


def test_repetition_penalty_counts_the_answer():
    sampler = Sampler(Sampling(repetition_penalty=10.0), (), CPU)
    assert [sampler.pick(LOGITS) for _ in range(3)] == [1, 2, 3]


def test_presence_and_frequency_count_the_answer_alone():
    once = Sampler(Sampling(presence_penalty=1.5), (1,), CPU)
    assert [once.pick(LOGITS) for _ in range(3)] == [1, 2, 1]
    often = Sampler(Sampling(frequency_penalty=0.6), (), CPU)
    assert [often.pick(LOGITS) for _ in range(4)] == [1, 1, 2, 1]


def test_the_models_logits_are_left_alone():
    logits = LOGITS.clone()
    Sampler(Sampling(repetition_penalty=2.0, presence_penalty=1.0, temperature=0.5), (1,), CPU).pick(logits)
    assert torch.equal(logits, LOGITS)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {}, {"top_k": 2}, {"top_p": 0.5}, {"presence_penalty": 1.0}])
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_what_is_no_number_is_never_drawn_from(settings, bad):
    logits = LOGITS.clone()
    logits[3] = bad
    if bad != bad:
        with pytest.raises(RequestError, match="NaN"):
            drawn(logits=logits, **settings)
    else:
        assert 3 not in drawn(logits=logits, **settings)
