from __future__ import annotations

import json

import pytest

from bainmarie_worker.tool_parsers import CallArguments, CallStart, Text
from bainmarie_worker.tool_parsers.hermes import Parser, fits

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "text": "</tool"}}\n</tool_call>'


def read(*pieces):
    """(words, calls as [name, arguments]) however the pieces are cut."""
    parser = Parser()
    deltas = [delta for piece in pieces for delta in parser.feed(piece)] + parser.finish()
    words, calls = "", []
    for delta in deltas:
        if isinstance(delta, Text):
            words += delta.text
        elif isinstance(delta, CallStart):
            assert delta.index == len(calls)
            calls.append([delta.name, ""])
        else:
            calls[delta.index][1] += delta.text
    return words, calls


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_however_the_text_is_cut(size):
    text = f"Let me see. {CALL}\n{CALL}"
    words, calls = read(*(text[i : i + size] for i in range(0, len(text), size)))
    assert words == "Let me see."
    assert [name for name, _ in calls] == ["add", "add"]
    assert all(json.loads(arguments) == {"a": 1, "text": "</tool"} for _, arguments in calls)


def test_words_stream_at_once_and_a_possible_tag_is_held_back():
    parser = Parser()
    assert parser.feed("2 is ") == [Text("2 is")]
    assert parser.feed("< 3, <tool") == [Text(" < 3,")]
    assert parser.feed("box> ") == [Text(" <toolbox>")]
    assert parser.finish() == [Text(" ")]


def test_the_name_is_told_before_the_arguments_are_complete():
    parser = Parser()
    assert parser.feed('<tool_call>{"name": "add"') == []
    assert parser.feed(', "argu') == [CallStart(0, "add")]
    assert parser.feed('ments": {"a": 1}') == []
    assert parser.feed("}") == [CallArguments(0, '{"a": 1}')]
    assert parser.feed("</tool_call>") == []
    assert parser.finish() == []


def test_arguments_before_the_name():
    assert read('<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>') == ("", [["add", '{"a": 1}']])


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "add", "arguments": {"a": 1,}}', '{"a": 1,}}'),
        ('{"name": "add", "arguments": {"a": 1}', '{"a": 1}'),
        ('{"name": "add", "arguments": {"a": "un', '{"a": "un'),
        ('{"name": "add", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "add", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "add", "arguments": [1]}', "[1]"),
        ('{"name": "add"}', "{}"),
        ('{"name": "add", "arguments": null}', "{}"),
        ('{"name": "add", "arguments": {"a": "two\nlines"}}', '{"a": "two\\nlines"}'),
        ('{"name": "add", "name": 5, "arguments": {}}', '{"name": "add", "name": 5, "arguments": {}}'),
    ],
)
def test_a_call_with_a_name_is_a_call_whatever_its_arguments_are(body, arguments):
    assert read(f"<tool_call>{body}</tool_call>") == ("", [["add", arguments]])
    assert read(*f"<tool_call>{body}</tool_call>") == ("", [["add", arguments]])


def test_an_unclosed_call_counts_too():
    assert read('<tool_call>\n{"name": "add", "arguments": {"a": 1}}') == ("", [["add", '{"a": 1}']])


@pytest.mark.parametrize("body", ["no JSON at all", '{"nme": "add"}', "[1, 2]", ""])
def test_what_has_no_name_stays_text(body):
    text = f"<tool_call>{body}</tool_call>"
    assert read(text) == (text, [])
    assert read(*text) == (text, [])


def test_white_space_at_the_end_is_kept_where_no_call_is():
    assert read("done.", "\n", " \n") == ("done.\n \n", [])


def test_templates_with_another_format_inside_do_not_fit():
    assert fits('<tool_call>{"name": ...}</tool_call>')
    assert not fits("<tool_call><function=name></function></tool_call>")
    assert not fits("no tools here")
