from __future__ import annotations

import json

import pytest

from bainmarie.agent import history
from bainmarie.agent.items import Message, ToolResult
from bainmarie.agent.request import read_request, saved_request
from bainmarie.errors import BadRequest


def test_a_whole_request(tmp_path):
    request = read_request(
        {
            "model": "demo",
            "prompt": "Hi",
            "system_prompt": "Be brief.",
            "workspace": str(tmp_path),
            "tools": ["calculator"],
            "approval": "deny",
            "rules": [{"tool": "read_*", "action": "allow"}],
            "max_iterations": 3,
            "max_tokens": 10,
            "temperature": 0,
            "interactive": True,
            "stream": True,
            "session": "s",
        }
    )
    assert request.given == (Message("system", "Be brief."), Message("user", "Hi"))
    assert request.sampling == {"max_tokens": 10, "temperature": 0}
    saved = saved_request(json.loads(json.dumps(request.to_json())), request.given)
    assert saved == request


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ({"prompt": None, "messages": []}, "messages"),
        ({"prompt": None, "messages": ["x"]}, "messages[0]"),
        ({"prompt": None, "messages": [{"role": "poet", "content": "x"}]}, "messages[0].role"),
        ({"prompt": None, "messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"prompt": None, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"prompt": None, "messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        (
            {"prompt": None, "messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]},
            "messages[0].tool_call_id",
        ),
        ({"workspace": "relative"}, "workspace"),
        ({"workspace": "/does/not/exist"}, "workspace"),
        ({"tools": "calculator"}, "tools"),
        ({"tools": [3]}, "tools"),
        ({"approval": "maybe"}, "approval"),
        ({"rules": {"a": "b"}}, "rules"),
        ({"rules": [{"tool": "a"}]}, "rules[0]"),
        ({"rules": [{"tool": "a", "action": "maybe"}]}, "rules[0].action"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"max_iterations": 1.5}, "max_iterations"),
        ({"max_iterations": True}, "max_iterations"),
        ({"temperature": "hot"}, "temperature"),
        ({"interactive": "yes"}, "interactive"),
        ({"max_iteratons": 3}, "max_iteratons"),
    ],
)
def test_what_is_off_is_named(changes, param):
    with pytest.raises(BadRequest) as failure:
        read_request({"model": "demo", "prompt": "Hi", **changes})
    assert failure.value.param == param


def test_a_misspelled_field_is_told_its_nearest():
    with pytest.raises(BadRequest) as failure:
        read_request({"model": "demo", "prompt": "Hi", "max_iteratons": 3})
    assert failure.value.hint == "Did you mean 'max_iterations'?"


def test_a_second_system_message_is_refused():
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(BadRequest) as failure:
        read_request({"model": "demo", "messages": messages, "system_prompt": "c"})
    assert failure.value.param == "system_prompt"


def test_a_conversation_with_calls_is_taken_over():
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "user", "content": "and now?"},
    ]
    given = read_request({"model": "demo", "messages": messages}).given
    chat = history.render(given)
    assert [(m["role"], m["content"]) for m in chat] == [
        ("user", "ab"),
        ("assistant", ""),
        ("tool", "3"),
        ("tool", "Interrupted: nothing is known of this call."),
        ("user", "and now?"),
    ]
    assert [i.status for i in given if isinstance(i, ToolResult)] == ["success", "interrupted"]
    assert history.log(given) == []
    again = read_request({"model": "demo", "messages": messages}).given
    assert {m["tool_call_id"] for m in history.render(again) if "tool_call_id" in m}.isdisjoint(
        m["tool_call_id"] for m in chat if "tool_call_id" in m
    )
