"""What a parser makes of a text, however the text is cut."""

from __future__ import annotations

from bainmarie_worker.tool_parsers import CallArguments, CallStart, Reasoning, Text


def read(parser, *pieces):
    """(words, reasoning, calls as (name, arguments))."""
    deltas = [delta for piece in pieces for delta in parser.feed(piece)] + parser.finish()
    words, reasoning, calls = "", "", []
    for delta in deltas:
        if isinstance(delta, Text):
            words += delta.text
        elif isinstance(delta, Reasoning):
            reasoning += delta.text
        elif isinstance(delta, CallStart):
            assert delta.index == len(calls)
            calls.append((delta.name, ""))
        else:
            assert isinstance(delta, CallArguments)
            assert delta.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.text)
    return words, reasoning, calls


def cut(text, places):
    """The text in pieces that end at these places."""
    pieces, start = [], 0
    for end in sorted({place % (len(text) + 1) for place in places} | {len(text)}):
        pieces.append(text[start:end])
        start = end
    return pieces
