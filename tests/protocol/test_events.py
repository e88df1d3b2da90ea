from __future__ import annotations

import pytest

from bainmarie_protocol import (
    MAX_LINE,
    Exited,
    Failed,
    Listening,
    Progress,
    Ready,
    Spawned,
    decode_event,
    encode_event,
)

EVENTS = [
    Spawned(1),
    Listening(2, 8080),
    Progress("weights", 5, 10, "bytes", "Größe"),
    Ready({"device": "cpu", "packages": {"torch": "2.13.0"}, "loads": 1}),
    Failed("load_failed", "two\nlines", "hint"),
    Exited(1, None),
    Exited(None, 9),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_round_trip_in_one_line(event):
    line = encode_event(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= MAX_LINE
    assert decode_event(line) == event


@pytest.mark.parametrize("letter", ["x", "ü", "世", "\n", '"', "👩"])
def test_a_long_failure_is_cut_in_the_middle_to_fit(letter):
    event = Failed("load_failed", "begin " + letter * 20_000 + " end", letter * 20_000)
    line = encode_event(event)
    assert len(line) <= MAX_LINE
    decoded = decode_event(line)
    assert decoded.code == "load_failed"
    assert decoded.message.startswith("begin")
    assert decoded.message.endswith("end")
    assert " ... " in decoded.message


def test_other_events_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="at most 4096"):
        encode_event(Ready({"path": "x" * 5000}))


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"null", b"{", b'{"event": "other"}', b'{"event": "spawned", "x": 1}'],
)
def test_anything_else_is_no_event(line):
    with pytest.raises(ValueError):  # noqa: PT011 - several messages, one meaning
        decode_event(line)
