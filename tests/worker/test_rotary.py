"""Positions that transformers 5 has saved, as an earlier release reads them. The classes stand for its own."""

from __future__ import annotations

import pytest

from bainmarie_worker.errors import LoadError
from bainmarie_worker.rotary import for_earlier


class Llama:
    def __init__(self, rope_theta=1e4, rope_scaling=None, max_position_embeddings=2048):
        """As LlamaConfig of release 4."""


class Phi:
    def __init__(self, rope_theta=1e4, rope_scaling=None, partial_rotary_factor=0.5):
        """As PhiConfig of release 4."""


class NeoX:
    def __init__(self, rotary_pct=0.25, rotary_emb_base=1e4, rope_scaling=None):
        """As GPTNeoXConfig of release 4."""


class Bloom:
    def __init__(self):
        """A family without rotary positions."""


KNOWN = {"llama": Llama, "phi": Phi, "gpt_neox": NeoX, "bloom": Bloom, "llava": Bloom}


def read(kind="llama", version="4.57.6", longest=2048, others=None, **rope):
    settings = {"model_type": kind, "max_position_embeddings": longest, "rope_parameters": rope, **(others or {})}
    return for_earlier(settings, KNOWN, version)


def refused(*args, **rope):
    with pytest.raises(LoadError, match="saved by transformers 5") as raised:
        read(*args, **rope)
    assert raised.value.code == "version_too_old"
    assert "transformers>=5" in raised.value.hint
    return raised.value.message


def test_base_and_scaling_go_where_release_4_looks_for_them():
    plain = {"model_type": "llama", "max_position_embeddings": 2048, "rope_theta": 5e5}
    assert read(rope_type="default", rope_theta=5e5) == plain
    linear = {"type": "linear", "factor": 4.0}
    assert read(rope_type="linear", rope_theta=5e5, factor=4.0) == {**plain, "rope_scaling": linear}
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    scaled = {**plain, "rope_scaling": {"type": "llama3", **llama3}}
    assert read(rope_type="llama3", rope_theta=5e5, attention_factor=None, **llama3) == scaled


def test_what_says_the_same_in_both_ways_is_left_alone():
    assert read(others={"rope_theta": 1e4}, rope_type="default", rope_theta=1e4) is None
    assert for_earlier({"model_type": "llama", "rope_theta": 5e5}, KNOWN, "4.57.6") is None


def test_the_part_of_a_head_that_is_rotated():
    assert read("phi", rope_theta=1e4, partial_rotary_factor=0.4)["partial_rotary_factor"] == 0.4
    neox = read("gpt_neox", rope_theta=2e4, partial_rotary_factor=0.5)
    assert (neox["rotary_emb_base"], neox["rotary_pct"]) == (2e4, 0.5)
    assert "partial_rotary_factor" not in read(rope_theta=5e5, partial_rotary_factor=1.0)
    assert "needs partial_rotary_factor" in refused(rope_theta=5e5, partial_rotary_factor=0.5)


def test_the_length_that_was_trained_with():
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 2048}
    assert read(version="4.46.3", **yarn)["rope_scaling"] == {"type": "yarn", "factor": 4.0}
    assert read(longest=8192, **yarn)["rope_scaling"]["original_max_position_embeddings"] == 2048
    assert "8192" in refused(version="4.46.3", longest=8192, **yarn)
    long = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0], "short_factor": [1.0]}
    long["original_max_position_embeddings"] = 1024
    phi = read("phi", longest=4096, factor=4.0, **long)
    assert phi["rope_scaling"] == {"type": "longrope", "long_factor": [2.0], "short_factor": [1.0]}
    assert phi["original_max_position_embeddings"] == 1024
    assert "by 8.0" in refused("phi", longest=4096, factor=8.0, **long)


def test_what_release_4_cannot_say_is_refused():
    layers = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert "each kind of layer" in refused(**layers)
    assert "proportional" in refused(rope_type="proportional", rope_theta=1e4)
    assert "mrope_section" in refused(rope_theta=1e4, mrope_section=[1, 2])
    assert "needs rope_theta" in refused("bloom", rope_theta=1e4)
    assert "rope_theta None" in refused(rope_type="default", factor=1.0)


def test_parts_of_a_model_are_read_too():
    text = {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5}}
    outer = {"model_type": "llava", "text_config": text, "vision_config": {"model_type": "bloom"}}
    read = for_earlier(outer, KNOWN, "4.57.6")
    assert read == {**outer, "text_config": {"model_type": "llama", "rope_theta": 5e5}}
