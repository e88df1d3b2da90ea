"""The bytes of tokens, against the tokenizers that gave them their names."""

from __future__ import annotations

from tokenizers import pre_tokenizers

from bainmarie_worker.token_bytes import token_bytes


def test_every_byte_of_byte_level_bpe():
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for number in range(0x250):
        text = chr(number)
        ((name, _),) = split.pre_tokenize_str(text)
        assert token_bytes(name) == text.encode()


def test_the_fallback_of_sentencepiece_and_names_that_are_bytes():
    assert token_bytes("<0xE2>") == b"\xe2"
    assert token_bytes(b"\x80") == b"\x80"


def test_other_names_tell_nothing():
    assert token_bytes("\u2581word") is None
    assert token_bytes(None) is None
