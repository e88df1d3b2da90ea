from __future__ import annotations

import pytest

from bainmarie_worker.detokenize import Detokenizer, StopStrings


def bytewise(ids):
    return bytes(ids).decode("utf-8", errors="replace")


def pieces(data, together=1):
    """The text of bytes of which so many come at a time."""
    reader = Detokenizer(bytewise)
    parts = [list(data[i : i + together]) for i in range(0, len(data), together)]
    return [*(reader.feed(part) for part in parts), reader.finish()]


@pytest.mark.parametrize("together", [1, 2, 3, 5, 9, 100])
def test_no_piece_has_half_a_character(together):
    text = "Grüße, 世界 👩‍🚀!"
    told = pieces(text.encode(), together)
    assert "".join(told) == text
    assert not any("\ufffd" in piece for piece in told)


def test_a_character_that_never_comes_is_told_at_the_end():
    assert "".join(pieces("ab€".encode()[:-1])) == "ab\ufffd"


@pytest.mark.parametrize("together", [1, 3, 9])
def test_bytes_that_are_no_text_do_not_wait_for_ever(together):
    told = pieces([0xFF] * 20, together)
    assert any(told[:-1])
    assert "".join(told) == "\ufffd" * 20


def test_a_space_that_depends_on_the_token_before():
    words = ["Hello", "world", "!"]

    def sentencepiece(ids):
        return " ".join(words[i] for i in ids).replace(" !", "!")

    reader = Detokenizer(sentencepiece)
    assert [reader.feed([i]) for i in (0, 1, 2)] == ["Hello", " world", "!"]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_stop_string_is_found_across_pieces_and_never_shown(size):
    text = "one two STOP three"
    stop = StopStrings(("nothing", "STOP"))
    told = "".join(stop.feed(text[i : i + size]) for i in range(0, len(text), size)) + stop.finish()
    assert stop.found
    assert told == "one two "


def test_the_earliest_of_several_counts():
    stop = StopStrings(("two", "ne t"))
    assert stop.feed("one two") + stop.finish() == "o"


def test_what_only_begins_like_a_stop_string_is_told_in_the_end():
    stop = StopStrings(("STOP",))
    assert stop.feed("ST") == ""
    assert stop.feed("AR STO") == "STAR "
    assert stop.finish() == "STO"
    assert not stop.found


def test_without_stop_strings_nothing_is_held_back():
    stop = StopStrings(())
    assert stop.feed("anything") == "anything"
