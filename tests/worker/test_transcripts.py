from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bainmarie_worker.transcripts import Transcripts


def encode(text):
    """One token for each letter, but `ab` is one token: what melts when it is encoded at once."""
    ids, place = [], 0
    while place < len(text):
        width = 2 if text[place : place + 2] == "ab" else 1
        ids.append(hash_of(text[place : place + width]))
        place += width
    return ids


def hash_of(piece):
    return sum(ord(letter) * 1000**power for power, letter in enumerate(piece))


def transcripts():
    return Transcripts(encode, lambda text: text.startswith("|"))


def test_without_a_known_beginning_all_is_encoded():
    assert transcripts().encode("|xab") == encode("|xab")


def test_generated_ids_stay_and_only_the_new_part_is_encoded():
    known = transcripts()
    ids = [*encode("|x"), ord("a"), ord("b")]  # the model wrote ab as two tokens
    assert ids != encode("|xab")
    known.note("|xab", ids)
    assert known.encode("|xab|ab") == [*ids, *encode("|ab")]


def test_a_text_that_goes_on_without_a_boundary_is_encoded_anew():
    known = transcripts()
    known.note("|xa", encode("|xa"))
    assert known.encode("|xab") == encode("|xab")


def test_the_longest_known_conversation_counts():
    known = transcripts()
    known.note("|x", [1])
    known.note("|x|y|z", [1, 2, 3])
    known.note("|x|y", [1, 2])
    assert known.encode("|x|y|z|") == [1, 2, 3, *encode("|")]
    assert known.encode("|x|y|w") == [1, 2, *encode("|w")]


def test_each_turn_stays_for_who_asks_again_from_there():
    known = transcripts()
    known.note("|x", [1])
    known.note("|x|y", [1, 2])
    assert known.encode("|x|z") == [1, *encode("|z")]


def test_many_conversations_push_out_the_oldest():
    known = transcripts()
    for number in range(257):
        known.note(f"|{number}.", [number])
    assert known.encode("|0.|") == encode("|0.|")
    assert known.encode("|1.|") == [1, *encode("|")]


@given(st.lists(st.text("ab|", max_size=6), max_size=6), st.text("ab|", max_size=12))
def test_decoded_it_is_always_the_text(conversations, text):
    """Also where what is known was split otherwise than the tokenizer would."""
    known = transcripts()
    for told in conversations:
        known.note(told, [ord(letter) for letter in told])
    pieces = {ord("a"): "a", ord("b"): "b", ord("|"): "|", hash_of("ab"): "ab"}
    assert "".join(pieces[token] for token in known.encode(text)) == text
