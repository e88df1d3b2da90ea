from __future__ import annotations

from bainmarie_worker.tool_parsers import CallArguments, CallStart, Text, parser_for
from bainmarie_worker.tool_parsers.llama import Parser


def read(*pieces):
    parser = Parser()
    return [delta for piece in pieces for delta in parser.feed(piece)] + parser.finish()


def test_the_whole_answer_is_a_call():
    expected = [CallStart(0, "add"), CallArguments(0, '{"a": 1}')]
    text = '{"name": "add", "parameters": {"a": 1}}'
    assert read(text) == read(*text) == expected
    assert read("<|python_tag|>" + text) == read(*("<|python_tag|>" + text)) == expected


def test_two_calls_in_a_row():
    text = '{"name": "add", "parameters": {}}; {"name": "sub", "parameters": {}}'
    assert [d.name for d in read(text) if isinstance(d, CallStart)] == ["add", "sub"]


def test_words_stream_at_once():
    parser = Parser()
    assert parser.feed("It is ") == [Text("It is ")]
    assert parser.feed("{3}") == [Text("{3}")]


def test_other_json_is_an_answer():
    assert read('{"name": "Bob", "age": 3}') == [Text('{"name": "Bob", "age": 3}')]


def test_broken_arguments_reach_the_caller():
    assert read('{"name": "add", "parameters": {"a": }}') == [CallStart(0, "add"), CallArguments(0, '{"a": }}')]


def test_the_template_decides():
    assert isinstance(parser_for('{"name": function name, "parameters": dictionary of argument name'), Parser)
    assert parser_for("nothing about tools") is None
