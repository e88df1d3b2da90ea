"""Events are cut at their ends alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bainmarie.workers.whole_events import WholeEvents

EVENTS = [b"data: 1\n\n", b": comment\n\n", b"data: two\r\n\r\n", b"data: [DONE]\n\n"]


@given(st.lists(st.sampled_from(EVENTS)), st.lists(st.integers(1, 20)))
def test_every_byte_comes_once_and_only_whole_events(events: list[bytes], sizes: list[int]) -> None:
    stream, cutter, got = b"".join(events), WholeEvents(), []
    while stream:
        size = sizes.pop() if sizes else 7
        got.append(cutter.take(stream[:size]))
        assert not got[-1] or got[-1].endswith((b"\n\n", b"\r\n\r\n"))
        stream = stream[size:]
    assert b"".join(got) == b"".join(events)
    assert cutter.rest == b""
    assert cutter.ended == (EVENTS[-1] in events)


def test_half_an_event_is_held_back() -> None:
    cutter = WholeEvents()
    assert cutter.take(b"data: 1\n\ndata: ha") == b"data: 1\n\n"
    assert (cutter.rest, cutter.ended) == (b"data: ha", False)


def test_an_endless_event_is_not_held_for_ever() -> None:
    cutter = WholeEvents()
    assert len(cutter.take(b"x" * 2_000_000)) == 2_000_000
