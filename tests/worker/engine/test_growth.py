"""Models whose rotary positions depend on how long a sequence is: token for token what generate() gives of it alone."""

from __future__ import annotations

import copy
import random

import pytest
from tests.worker.engine.architectures import Architecture, architecture, make
from tests.worker.engine.driving import CPU, Watched, batch, finish, generated, heard, steps, submit

from bainmarie_worker.engine.apart import apart
from bainmarie_worker.engine.growth import NONE, Growth
from bainmarie_worker.engine.packed import packed
from bainmarie_worker.engine.sequence import Sampling
from bainmarie_worker.engine.ways import best_way

MOST = 24
TOKENS = 16
LENGTHS = (1, 5, 12, 19, 23, 24, 25, 33, 60, 47)


def longrope(name, **settings):
    sizes = architecture(name).settings
    half = sizes["head_dim"] // 2 if name != "phimoe" else sizes["hidden_size"] // sizes["num_attention_heads"] // 2
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.1 * n for n in range(half)],
        "long_factor": [2.0 + 0.7 * n for n in range(half)],
        "original_max_position_embeddings": MOST,
    }
    own = {} if name == "llama" else {"original_max_position_embeddings": MOST}
    return Architecture(name, {**sizes, "rope_parameters": {**rope, **settings}, **own})


def dynamic(name):
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 16.0}
    return Architecture(name, {**architecture(name).settings, "rope_parameters": rope, "max_position_embeddings": MOST})


KINDS = {
    "phi3": (longrope, {}, Growth(MOST, anew=True)),
    "phimoe": (longrope, {"short_mscale": 1.1, "long_mscale": 1.4}, Growth(MOST, anew=True)),
    "llama": (longrope, {}, Growth(MOST)),
    "qwen3": (dynamic, {}, Growth(MOST, each=True)),
}
WAYS = [(name, path) for name in KINDS for path in ("packed", "apart") if (name, path) != ("phimoe", "packed")]


def made(name):
    kind, settings, _ = KINDS[name]
    return make(kind(name, **settings))


class Pot:
    def __init__(self, name, path):
        self.growth = KINDS[name][2]
        self.model = made(name)
        self.forward = best_way(made(name), CPU, path)
        assert not isinstance(self.forward, str), self.forward
        self.path = path
        self._answers = {}

    def answer(self, prompt, tokens):
        """By a model that has computed nothing yet: some remember the longest sequence they have seen."""
        key = (tuple(prompt), tokens)
        if key not in self._answers:
            self._answers[key] = generated(copy.deepcopy(self.model), prompt, tokens)
        return self._answers[key]

    def check(self, *streams):
        for stream in streams:
            assert stream.tokens == self.answer(stream.sequence.prompt, stream.sequence.max_tokens)


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def pot(request):
    return Pot(*request.param)


def prompts():
    chance = random.Random(5)
    return [chance.choices(range(3, 128), k=length) for length in LENGTHS]


def test_what_the_length_changes_is_known(pot):
    assert pot.forward.path == pot.path
    assert pot.forward.growth == pot.growth


def test_what_is_computed_for_a_short_one_is_wrong_for_a_long_one(pot):
    """Else the tests below would prove little."""
    forward = copy.copy(pot.forward)
    forward.growth = NONE
    work = batch(forward, speculate=False)
    right = []
    for length in (20, 40, 60):
        stream = heard(prompts()[8][:length], TOKENS)
        finish(work, stream)
        right.append(stream.tokens == pot.answer(stream.sequence.prompt, TOKENS))
    assert not all(right)


def test_alone(pot):
    for prompt in prompts():
        stream = heard(prompt, TOKENS)
        finish(batch(pot.forward), stream)
        pot.check(stream)


def test_in_one_batch_with_others(pot):
    work = batch(pot.forward)
    streams = [heard(prompt, TOKENS) for prompt in prompts()]
    for stream in streams:
        submit(work, stream)
        steps(work, 1)
    finish(work)
    pot.check(*streams)


def test_whatever_was_computed_before(pot):
    work = batch(pot.forward)
    chance = random.Random(2)
    told = chance.choices(range(3, 128), k=80)
    for length in chance.choices(range(2, 80), k=24):
        stream = heard([*told[:length], 3 + length], chance.choice([1, 3, TOKENS]))
        finish(work, stream)
        pot.check(stream)


def test_a_conversation_that_grows(pot):
    work = batch(pot.forward)
    told = prompts()[1]
    cached = []
    while len(told) < 70:
        stream = heard(told, 4)
        finish(work, stream)
        pot.check(stream)
        cached.append(stream.finish.cached)
        told = [*told, *stream.tokens, 9, 8]
    assert cached[1] > 0, "short ones share what is computed"
    if not pot.growth.each:
        assert cached[-1] > MOST, "and so do long ones"


def test_with_guesses(pot):
    watched = Watched(pot.forward)
    streams = [heard([9, 8, 7, 6] * 4, 24), heard([5] * 20, 24), heard([4, 3, 4, 3] * 9, 24)]
    finish(batch(watched), *streams)
    pot.check(*streams)
    assert (watched.guessed > 0) == (pot.path == "packed")


def test_in_chunks(pot):
    """A long prompt beside others is computed in several passes."""
    work = batch(pot.forward)
    chance = random.Random(3)
    streams = [heard(chance.choices(range(3, 128), k=count), 4) for count in (20, 150, 240)]
    for stream in streams:
        submit(work, stream)
        steps(work, 1)
    finish(work)
    pot.check(*streams)


def test_with_little_memory(pot):
    watched = Watched(pot.forward)
    one = heard(prompts()[8], TOKENS)
    finish(batch(watched), one)
    streams = [heard(prompt, TOKENS) for prompt in prompts()]
    finish(batch(pot.forward, watched.held * 3 // 2), *streams)
    pot.check(*streams)


def test_with_a_seed_it_is_the_same_again(pot):
    work = batch(pot.forward)
    sampling = Sampling(temperature=1.0, seed=4)
    again = []
    for _ in range(2):
        streams = [heard(prompt, TOKENS, sampling, logprobs=0) for prompt in prompts()]
        finish(work, *streams)
        again.append([stream.drawn for stream in streams])
    assert again[0] == again[1]


def test_code_of_its_own_goes_by_generate():
    model = made("phi3")
    del model.model.rotary_emb.original_inv_freq
    for refused in (packed(model, CPU, []), apart(model, CPU, [], "")):
        assert "in a way of their own" in refused
