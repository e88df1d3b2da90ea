from __future__ import annotations

import json

import pytest

from bainmarie_worker.engine.sequence import Sampling
from bainmarie_worker.errors import RequestError
from bainmarie_worker.messages import plain_text
from bainmarie_worker.requests import parse_chat, parse_completion

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields):
    return parse_chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def refused(parse=chat, **fields):
    with pytest.raises(RequestError) as raised:
        parse(**fields)
    assert raised.value.status == 400
    return raised.value.param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0.function"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools.0"),
        ({"tools": {}}, "tools"),
        ({"tools": None}, None),
        ({"tools": [], "functions": None, "min_tokens": 0, "continue_final_message": False}, None),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"max_tokens": 10**400}, None),
        ({"seed": 10**400}, "seed"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_is_off_is_named(fields, param):
    if param is None:
        assert chat(**fields).tools == ()
    else:
        assert refused(**fields) == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_object(body):
    with pytest.raises(RequestError) as raised:
        parse_chat(body)
    assert raised.value.code == "invalid_json"


def test_unknown_fields_and_nulls_are_ignored():
    request = chat(user="me", metadata={}, temperature=None, stop=None, max_tokens=None, stream=None, n=1)
    assert request.wish.sampling == ()
    assert request.wish.max_tokens is None
    assert not request.wish.stream


def test_text_parts_are_joined_and_developer_is_system():
    messages = [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert chat(messages=messages).messages == ({"role": "system", "content": "ab"},)


def test_arguments_in_the_history_become_objects_where_they_can():
    def arguments(value):
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": value}}
        (message,) = chat(messages=[{"role": "assistant", "content": None, "tool_calls": [call]}]).messages
        return message["tool_calls"][0]["function"]["arguments"]

    assert arguments('{"a": 1}') == {"a": 1}
    assert arguments('{"a": ') == '{"a": '
    assert arguments("") == {}
    assert arguments({"a": 1}) == {"a": 1}
    assert arguments("[1]") == "[1]"


def test_the_newer_name_of_max_tokens_wins():
    assert chat(max_tokens=5, max_completion_tokens=7).wish.max_tokens == 7


def test_tools_of_other_kinds_are_skipped():
    function = {"type": "function", "function": {"name": "f"}}
    assert chat(tools=[{"type": "web_search"}, function]).tools == (function,)
    assert chat(tools=[function], tool_choice="none").tools == ()


def test_sampling_goes_over_the_models_defaults():
    defaults = {"temperature": 0.6, "top_p": 0.9}
    assert chat().wish.sampling_over(defaults) == Sampling(temperature=0.6, top_p=0.9)
    assert chat(temperature=0).wish.sampling_over(defaults) == Sampling(temperature=0, top_p=0.9)
    assert chat().wish.sampling_over({}) == Sampling(temperature=0)
    assert chat(top_p=0.5).wish.sampling_over({}) == Sampling(temperature=1, top_p=0.5)
    assert chat(top_k=-1, temperature=1).wish.sampling_over({}).top_k == 0


def test_completion_prompts():
    def parse(**fields):
        return parse_completion(json.dumps({"model": "m", **fields}).encode())

    assert parse(prompt="x").prompt == "x"
    assert parse(prompt=["x"]).prompt == "x"
    for prompt in (None, "", [], ["a", "b"], [1, 2]):
        assert refused(parse, prompt=prompt) == "prompt"
    assert refused(parse, prompt="x", echo=True) == "echo"
    assert refused(parse, prompt="x", logprobs=21) == "logprobs"
    assert parse(prompt="x", logprobs=0).wish.logprobs == 0


def test_plain_text_joins_the_texts_with_one_line_break():
    messages = chat(messages=[{"role": "system", "content": "a"}, *HELLO]).messages
    assert plain_text(messages) == "a\nHello"
