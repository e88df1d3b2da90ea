"""The fake engine: echo, script, tool calls, all through the real server."""

from __future__ import annotations

import json

TOOLS = [{"type": "function", "function": {"name": "calculator", "parameters": {}}}]
SCRIPT = [
    {"content": "I add.", "tool_calls": [{"name": "calculator", "arguments": {"expression": "1 + 2"}}]},
    {"tool_calls": [{"name": "a", "arguments": {}}, {"name": "b", "arguments": '{"broken": '}]},
    {"content": "It is 3."},
]


def test_it_echoes_the_last_user_message(start_fake):
    worker = start_fake()
    assert worker.text("Hello  wide\n world ") == "Hello  wide\n world "
    raw = worker.post("/v1/completions", {"model": "m", "prompt": "as it is"}).json
    assert raw["choices"][0]["text"] == "as it is"


def test_a_script_goes_on_with_each_assistant_turn(start_fake):
    worker = start_fake(script=SCRIPT)
    history = [{"role": "user", "content": "1 + 2?"}]
    first = worker.chat(history, tools=TOOLS).json["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    assert first["message"]["content"] == "I add."
    (call,) = first["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "calculator"
    assert json.loads(call["function"]["arguments"]) == {"expression": "1 + 2"}

    history += [first["message"], {"role": "tool", "tool_call_id": call["id"], "content": "3"}]
    second = worker.chat(history, tools=TOOLS).json["choices"][0]["message"]
    assert second["content"] is None
    assert [c["function"]["name"] for c in second["tool_calls"]] == ["a", "b"]
    assert second["tool_calls"][1]["function"]["arguments"].startswith('{"broken":')
    assert len({c["id"] for c in second["tool_calls"]}) == 2

    history += [second, {"role": "tool", "tool_call_id": "x", "content": "?"}]
    assert worker.text(history, tools=TOOLS) == "It is 3."


def test_calls_stream_as_deltas_name_first(start_fake):
    worker = start_fake(script=SCRIPT)
    chunks = worker.chat("1 + 2?", tools=TOOLS, stream=True).chunks
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content", "") for d in deltas) == "I add."
    calls = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert calls[0]["function"] == {"name": "calculator", "arguments": ""}
    assert calls[0]["index"] == 0
    assert json.loads("".join(c["function"]["arguments"] for c in calls)) == {"expression": "1 + 2"}
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}


def test_without_tools_the_script_only_talks(start_fake):
    worker = start_fake(script=SCRIPT)
    choice = worker.chat("1 + 2?").json["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "I add."}
    assert choice["finish_reason"] == "stop"


def test_max_tokens_counts_words(start_fake):
    worker = start_fake()
    reply = worker.chat("one two three", max_tokens=2).json
    assert reply["choices"][0]["message"]["content"] == "one two"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 2


def test_a_stop_string_across_words(start_fake):
    worker = start_fake()
    assert worker.text("one two three", stop="o th") == "one tw"


def test_a_stop_string_inside_a_call_is_no_end_of_that_call(start_fake):
    """Nobody may take half of its arguments for a call."""
    worker = start_fake(script=SCRIPT)
    choice = worker.chat("1 + 2?", tools=TOOLS, stop=["+"]).json["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert worker.chat("1 + 2?", tools=TOOLS, stop=["I add"]).json["choices"][0]["finish_reason"] == "stop"
    assert worker.chat("1 + 2?", tools=TOOLS, stop=["</nothing>"]).json["choices"][0]["finish_reason"] == "tool_calls"


def test_a_chat_template_that_cannot_be_read_is_told_when_its_name_is_loaded(start_fake):
    worker = start_fake()
    response = worker.post("/models/load", {"name": "t", "chat_template": "/nowhere/t.jinja"})
    assert response.status == 503
    assert "/nowhere/t.jinja" in response.json["error"]["message"]
    assert worker.text("Hello") == "Hello"
