"""Whatever comes, leaves and fits when: each answer is the one that its request gets alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.worker.engine.architectures import architecture, make
from tests.worker.engine.driving import PLENTY, Watched, batch, finish, heard, steps, submit, way

from bainmarie_worker.engine.sequence import Sampling

SHARED = random.Random(2).choices(range(3, 128), k=150)
LIMITS = {
    "llama": (PLENTY, 100_000, 70_000, 40_000),
    "gemma3_text": (PLENTY, 80_000),
    "falcon_h1": (PLENTY, 60_000),
    "qwen3_5_text": (PLENTY, 400_000),
}


@dataclass(frozen=True)
class Asked:
    """A request: so much of what many share, and a few tokens of its own."""

    shared: int
    own: tuple[int, ...]
    tokens: int
    seed: int | None
    few: bool
    """Its answer has so few different tokens that many of them are guessed."""

    def heard(self):
        likely = tuple((token, 20.0) for token in range(3, 6)) if self.few else ()
        chance = {} if self.seed is None else {"temperature": 1.5, "top_p": 0.95, "seed": self.seed}
        sampling = Sampling(logit_bias=likely, **chance)
        return heard([*SHARED[: self.shared], *self.own], self.tokens, sampling)


ASKED = st.builds(
    Asked,
    st.integers(0, 150),
    st.lists(st.integers(3, 6), min_size=1, max_size=12).map(tuple),
    st.integers(1, 14),
    st.none() | st.integers(0, 3),
    st.booleans(),
)
EVENTS = st.lists(st.one_of(ASKED, st.integers(1, 6), st.builds(float, st.integers(0, 9))), max_size=24)
"""A request comes; so many steps are made (int); the client of the n-th request leaves (float)."""


@cache
def forward(name):
    return way(make(architecture(name)))


@cache
def alone(name, asked):
    stream = asked.heard()
    finish(batch(forward(name), speculate=False), stream)
    return stream.tokens


@pytest.mark.parametrize("name", LIMITS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_each_answer_is_as_if_alone(name, data):
    limit = data.draw(st.sampled_from(LIMITS[name]))
    watched = Watched(forward(name))
    work = batch(watched, limit)
    asked, streams = [], []
    for event in data.draw(EVENTS):
        if isinstance(event, Asked):
            asked.append(event)
            streams.append(event.heard())
            submit(work, streams[-1])
        elif isinstance(event, int):
            steps(work, event)
        elif streams:
            streams[int(event) % len(streams)].cancelled.set()
    finish(work)
    for one, stream in zip(asked, streams, strict=True):
        whole = alone(name, one)
        if stream.cancelled.is_set():
            assert stream.tokens == whole[: len(stream.tokens)]
            assert stream.finish.reason in ("cancelled", "length")
        else:
            assert stream.tokens == whole
            assert stream.finish.reason == "length"
            assert stream.finish.generated == one.tokens
    assert watched.held <= limit
