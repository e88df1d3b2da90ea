from __future__ import annotations

from bainmarie_worker.messages import read_messages
from bainmarie_worker.template_ways import fitted, with_text_arguments

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


def test_arguments_as_text():
    calls = with_text_arguments(HISTORY)[1]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == ['{"a": 1}', "{}"]
