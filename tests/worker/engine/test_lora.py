"""Many adapters at once: each request gets its own, as peft alone computes it in float32."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.worker.engine.architectures import architecture, make
from tests.worker.engine.driving import CPU, Watched, batch, captured_way, finish, generated, heard, steps, submit

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.adapted import Adapted
from bainmarie_worker.engine.captured.forward import Captured
from bainmarie_worker.engine.fused.forward import Fused
from bainmarie_worker.engine.ways import best_way

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves

SHARED = random.Random(8).choices(range(3, 128), k=40)
PROMPTS = [[*SHARED[: 40 - 3 * number], 7, number + 3] for number in range(10)]
TOKENS = 6

PLAIN = {
    "one": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "two": {"r": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    "three": {"r": 2, "target_modules": ["down_proj"], "use_rslora": True},
    "four": {"r": 16, "target_modules": "all-linear"},
}
HEADS = {
    "head": {"r": 4, "target_modules": ["lm_head"]},
    "heads": {"r": 8, "target_modules": ["lm_head", "down_proj"]},
}
APART = {
    "dora": {"r": 4, "target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "saved": {"r": 4, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    "tokens": {"r": 4, "target_modules": ["v_proj"], "trainable_token_indices": [3, 4, 5, 6, 7]},
}


@dataclass(frozen=True)
class Family:
    """A base, adapters on it as directories, and what peft computes with each."""

    path: str
    """The way that the base is computed."""
    paths: dict[str, str]
    references: dict[str | None, Any]

    @property
    def mixes(self):
        """Whether several adapters share a pass."""
        return self.path != "apart"

    def answer(self, name, prompt):
        return list(_answer(self.references[name], tuple(prompt)))


@cache
def _answer(model, prompt):
    return generated(model, prompt, TOKENS)


@pytest.fixture(scope="module", params=["fused", "captured", "packed", "apart"])
def family(tmp_path_factory, request):
    import torch
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("adapters")
    paths, references = {}, {None: make(architecture("llama"))}
    for number, (name, wish) in enumerate({**PLAIN, **HEADS, **APART}.items()):
        base = make(architecture("llama"))
        torch.manual_seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(base, LoraConfig(lora_alpha=24, init_lora_weights=False, **wish)).eval()
            if name in ("saved", "tokens"):
                _change(model)
            paths[name] = str(root / name)
            model.save_pretrained(paths[name])
        references[name] = model
    return Family(request.param, paths, references)


def _change(model):
    """Trains, so to say: what is saved beside the matrices differs from the base's."""
    import torch

    for name, weights in model.named_parameters():
        if "modules_to_save" in name or "trainable_tokens_delta" in name:
            with torch.no_grad():
                weights.add_(torch.randn_like(weights) * 0.3)


class Served:
    """The base with some adapters, under one batch."""

    def __init__(self, family, *names):
        model = make(architecture("llama"))
        forward = captured_way(model) if family.path == "captured" else best_way(model, CPU, family.path)
        assert not isinstance(forward, str)
        assert forward.path == family.path
        self.family = family
        self.adapters = Adapters(model, mix=forward.packs)
        self.watched = Watched(forward)
        self.batch = batch(Adapted(self.watched, self.adapters))
        if isinstance(forward, Fused):  # which `Adapted` does not see through what watches it
            forward.weights = self.adapters.weights
        if isinstance(forward, Captured):
            forward.named = self.adapters.named
        for name in names:
            self.load(name)

    def load(self, name):
        self.adapters.load(self.family.paths[name], lambda step: None)

    def ask(self, name, prompt):
        return heard(prompt, TOKENS, adapter=None if name is None else self.family.paths[name])

    def check(self, name, stream):
        assert stream.tokens == self.family.answer(name, stream.sequence.prompt), name

    def check_together(self, names):
        """Each of them with four prompts, all side by side, joining one or two at a time."""
        asked = [(name, self.ask(name, prompt)) for prompt in PROMPTS[:4] for name in names]
        for place, (_, stream) in enumerate(asked):
            submit(self.batch, stream)
            steps(self.batch, place % 2)
        finish(self.batch)
        for name, stream in asked:
            self.check(name, stream)


def test_adapters_change_the_answers(family):
    """Else the tests below would prove little."""
    answers = [tuple(family.answer(name, PROMPTS[0])) for name in family.references]
    assert len(set(answers)) == len(answers)


def test_200_requests_over_three_adapters_and_the_base_while_a_fourth_comes(family):
    served = Served(family, "one", "two", "three")
    chance = random.Random(1)
    asked = []
    for number in range(200):
        if number == 90:
            served.load("four")
        names = [None, "one", "two", "three", *(["four"] if number >= 90 else [])]
        name = chance.choice(names)
        stream = served.ask(name, chance.choice(PROMPTS))
        asked.append((name, stream))
        submit(served.batch, stream)
        steps(served.batch, chance.randrange(3))
    finish(served.batch)
    for name, stream in asked:
        served.check(name, stream)
    assert {name for name, _ in asked} == {None, *PLAIN}
    assert max(len(parts) for parts in served.watched.passes) > (4 if family.mixes else 1)
    assert served.adapters.mixed == family.mixes


NAMES = (None, *PLAIN, "dora")
ASKED = st.tuples(st.sampled_from(NAMES), st.sampled_from(range(len(PROMPTS))))
EVENTS = st.lists(st.one_of(ASKED, st.integers(1, 4), st.sampled_from(NAMES[1:]), st.just("cancel")), max_size=30)
"""A request comes, with the adapter's name; so many steps are made; an adapter is let go, if nobody needs it; the
latest request's client leaves."""


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(events=EVENTS)
def test_whatever_comes_and_goes_each_gets_its_own(family, events):
    served = Served(family)
    asked = []
    for event in events:
        if isinstance(event, tuple):
            name, number = event
            if name is not None:
                served.load(name)
            asked.append((name, served.ask(name, PROMPTS[number])))
            submit(served.batch, asked[-1][1])
        elif isinstance(event, int):
            steps(served.batch, event)
        elif event == "cancel":
            if asked:
                asked[-1][1].cancelled.set()
        elif not served.batch.uses(family.paths[event]):
            served.batch.forget(family.paths[event])
            served.adapters.unload(family.paths[event])
    finish(served.batch)
    for name, stream in asked:
        whole = family.answer(name, stream.sequence.prompt)
        assert stream.tokens == (whole[: len(stream.tokens)] if stream.cancelled.is_set() else whole), name


def test_different_adapters_share_a_pass(family):
    served = Served(family, "one", "two", "three", "four")
    streams = {name: served.ask(name, PROMPTS[0]) for name in (None, *PLAIN)}
    finish(served.batch, *streams.values())
    for name, stream in streams.items():
        served.check(name, stream)
    assert max(len(parts) for parts in served.watched.passes) == (5 if family.mixes else 1)


def test_output_layers_of_their_own_beside_others(family):
    """An output layer computes the rows whose logits are wanted, and no others."""
    served = Served(family, "one", "head", "heads")
    names = ("heads", None, "head", "one", "head")
    served.check_together(names)
    assert served.adapters.mixed == family.mixes


@pytest.mark.parametrize("wish", ["auto", "packed", "apart"])
def test_an_output_layer_that_is_tied_to_the_embeddings(tmp_path, wish):
    from peft import LoraConfig, PeftModel, get_peft_model

    known = architecture("gemma2")
    tied = replace(known, settings={**known.settings, "tie_word_embeddings": True})
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["lm_head"], init_lora_weights=False)
    get_peft_model(make(tied), config).save_pretrained(tmp_path)
    answer = generated(PeftModel.from_pretrained(make(tied), tmp_path).eval(), PROMPTS[0], TOKENS)
    assert answer != generated(make(tied), PROMPTS[0], TOKENS)
    model = make(tied)
    forward = best_way(model, CPU, wish)
    adapters = Adapters(model, mix=forward.packs)
    adapters.load(str(tmp_path), lambda step: None)
    stream, base = heard(PROMPTS[0], TOKENS, adapter=str(tmp_path)), heard(PROMPTS[0], TOKENS)
    finish(batch(Adapted(forward, adapters)), stream, base)
    assert stream.tokens == answer
    assert base.tokens == generated(make(tied), PROMPTS[0], TOKENS)


def test_a_prefix_is_never_shared_between_adapters(family):
    served = Served(family, "one", "two")
    for name in (None, "one", "two"):
        first, second = served.ask(name, PROMPTS[0]), served.ask(name, PROMPTS[0])
        finish(served.batch, first)
        assert first.finish.cached == 0
        finish(served.batch, second)
        assert second.finish.cached == len(PROMPTS[0]) - 1
        served.check(name, first)
        served.check(name, second)


def test_nor_while_both_are_running(family):
    served = Served(family, "one")
    first, second = served.ask(None, PROMPTS[0]), served.ask("one", PROMPTS[0])
    submit(served.batch, first)
    steps(served.batch, 2)
    finish(served.batch, second)
    assert second.finish.cached == 0
    served.check(None, first)
    served.check("one", second)


def test_a_directory_that_is_loaded_again_begins_with_nothing(family):
    served = Served(family, "one")
    stream = served.ask("one", PROMPTS[0])
    finish(served.batch, stream)
    served.batch.forget(family.paths["one"])
    served.adapters.unload(family.paths["one"])
    base = served.ask(None, PROMPTS[0])
    finish(served.batch, base)
    served.check(None, base)
    served.load("one")
    again = served.ask("one", PROMPTS[0])
    finish(served.batch, again)
    assert again.finish.cached == 0
    served.check("one", again)


@pytest.mark.parametrize("odd", APART)
def test_an_adapter_that_cannot_be_mixed_is_right_beside_others(family, odd):
    served = Served(family, "one", "two", odd)
    assert not served.adapters.mixed
    served.check_together(("one", odd, None, "two"))


@pytest.mark.parametrize("odd", ["dora", "saved"])
def test_when_it_is_gone_the_others_are_mixed_again(family, odd):
    served = Served(family, "one", "two", odd)
    served.adapters.unload(family.paths[odd])
    assert served.adapters.mixed == family.mixes
    streams = {name: served.ask(name, PROMPTS[1]) for name in (None, "one", "two")}
    finish(served.batch, *streams.values())
    for name, stream in streams.items():
        served.check(name, stream)
    assert max(len(parts) for parts in served.watched.passes) == (3 if family.mixes else 1)


def test_uses_knows_who_runs_and_who_waits(family):
    served = Served(family, "one", "two")
    path = family.paths["one"]
    assert not served.batch.uses(path)
    stream = served.ask("one", PROMPTS[0])
    submit(served.batch, stream)
    assert served.batch.uses(path)
    steps(served.batch, 2)
    assert served.batch.uses(path)
    finish(served.batch)
    assert not served.batch.uses(path)
    assert not served.batch.uses(family.paths["two"])
