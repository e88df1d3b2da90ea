from __future__ import annotations

import json

import pytest
from tests.worker.tool_parsers.reading import read

from bainmarie_worker.messages import read_messages
from bainmarie_worker.template_ways import fitted, with_text_arguments
from bainmarie_worker.tool_parsers import parser_for

HISTORY = list(
    read_messages(
        [
            {"role": "user", "content": "Hello"},
            {
                "role": "assistant",
                "content": "I add.",
                "reasoning": "Two calls.",
                "tool_calls": [
                    {"id": "call_x", "function": {"name": "add", "arguments": '{"a": 1}'}},
                    {"id": "call_y", "function": {"name": "now"}},
                ],
            },
            {"role": "tool", "tool_call_id": "call_y", "content": "noon"},
            {"role": "tool", "tool_call_id": "call_x", "content": "2"},
            {"role": "tool", "tool_call_id": "unknown", "content": "?"},
        ]
    )
)


def ids(messages):
    calls = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    return calls, [message["tool_call_id"] for message in messages if "tool_call_id" in message]


def test_most_templates_get_the_messages_as_they_are():
    assert fitted(HISTORY, "{{ message.reasoning_content }}") == HISTORY
    assert HISTORY[1]["reasoning_content"] == "Two calls."


def test_ids_are_what_the_template_demands():
    nine = fitted(HISTORY, "{% if tool_call.id|length != 9 %}{{ raise_exception('no') }}{% endif %}")
    assert ids(nine) == (["000000000", "000000001"], ["000000001", "000000000", "unknown"])
    kimi = fitted(HISTORY, "<|tool_call_argument_begin|>")
    assert ids(kimi) == (["functions.add:0", "functions.now:1"], ["functions.now:1", "functions.add:0", "unknown"])
    assert ids(HISTORY) == (["call_x", "call_y"], ["call_y", "call_x", "unknown"])


def test_harmony_reads_one_text_beside_a_call():
    told = fitted(HISTORY, "<|channel|><|message|>{{ message.thinking }}")[1]
    assert (told["thinking"], told["content"]) == ("Two calls.\nI add.", "")
    assert "reasoning_content" not in told


def test_a_call_without_words_has_no_content_where_the_template_looks_for_that():
    template = "{% if message['content'] is none %}{{ message['tool_calls'] }}{% endif %}"
    silent = {**HISTORY[1], "content": ""}
    assert fitted([silent], template)[0]["content"] is None
    assert fitted([silent], "{{ message.content }}")[0]["content"] == ""
    assert fitted(HISTORY, template)[1]["content"] == "I add."


@pytest.mark.parametrize("teaches", ["<tool_call>", "<|tool_call|>", "List of tools: "])
def test_calls_that_a_template_would_leave_out_stand_in_the_content(teaches):
    content = fitted(HISTORY, teaches)[1]["content"]
    words, _, calls = read(parser_for(teaches), content)
    assert (words, calls) == ("I add.", [("add", '{"a": 1}'), ("now", "{}")])
    assert fitted(HISTORY, teaches + "{{ message.tool_calls }}")[1]["content"] == "I add."


def test_calls_as_python_are_the_values_that_they_were():
    values = {"text": 'a "b"\n', "items": [1, "x", None], "on": True}
    call = {"id": "c", "function": {"name": "add", "arguments": values}}
    written = fitted([{"role": "assistant", "content": "", "tool_calls": [call]}], "List of tools: ")[0]["content"]
    assert written.startswith('<|tool_call_start|>[add(text="a \\"b\\"\\n", ')
    assert json.loads(read(parser_for("List of tools: "), written)[2][0][1]) == values


def test_arguments_as_text():
    calls = with_text_arguments(HISTORY)[1]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == ['{"a": 1}', "{}"]
