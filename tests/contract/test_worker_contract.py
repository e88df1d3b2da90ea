"""What every worker promises, held by the fake engine and by a real model alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.conftest import Gateway, end_gateway, launch_gateway, make_home

CALL = {"name": "calculator", "arguments": {"expression": "173 * 29"}}
CONFIGURATION = {
    "version": 1,
    "models": {
        "echo": {"engine": "fake"},
        "caller": {"engine": "fake", "options": {"script": [{"tool_calls": [CALL]}, {"content": "It is 5017."}]}},
        "slow": {"engine": "fake", "options": {"token_seconds": 0.2}},
    },
}
TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Computes.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    },
}
MODELS = pytest.mark.parametrize("model", ["echo", "demo"])
CALLERS = pytest.mark.parametrize("model", ["caller", "demo"])


@pytest.fixture(scope="module")
def gateway(kept_home: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("contract")
    gateway = launch_gateway(make_home(kept_home, folder / "home"), folder, json.dumps(CONFIGURATION))
    yield gateway
    end_gateway(gateway)


def chunks(gateway: Gateway, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, which ends with [DONE]."""
    with gateway.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def question(model: str, text: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


@MODELS
def test_a_stream_is_the_whole_answer_in_pieces(gateway: Gateway, model: str) -> None:
    whole = gateway.chat(model, "Who are you?")
    events = chunks(gateway, question(model, "Who are you?", stream_options={"include_usage": True}))
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in events if c["choices"])
    assert text == whole["choices"][0]["message"]["content"] != ""
    reasons = [c["choices"][0]["finish_reason"] for c in events if c["choices"]]
    assert reasons[-1] == whole["choices"][0]["finish_reason"] == "stop"
    assert not any(reasons[:-1])
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert {k: events[-1]["usage"][k] for k in counted} == {k: whole["usage"][k] for k in counted}


@CALLERS
def test_a_tool_call_and_the_answer_to_its_result(gateway: Gateway, model: str) -> None:
    body = question(model, "What is 173 * 29?", tools=[TOOL])
    first = gateway.http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    [call] = first["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (CALL["name"], CALL["arguments"])
    deltas = [d for c in chunks(gateway, body) for d in c["choices"][0]["delta"].get("tool_calls") or []]
    assert "".join(d["function"].get("arguments") or "" for d in deltas) == call["function"]["arguments"]
    body["messages"] += [first["message"], {"role": "tool", "tool_call_id": call["id"], "content": "5017"}]
    second = gateway.http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert second["finish_reason"] == "stop"
    assert "5017" in second["message"]["content"]


@MODELS
def test_max_tokens_cuts_and_says_so(gateway: Gateway, model: str) -> None:
    answer = gateway.chat(model, "Who are you? Tell me all about it, please.", max_tokens=2)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


@MODELS
@pytest.mark.parametrize(
    ("field", "value"), [("temperature", "hot"), ("max_tokens", 0), ("messages", []), ("n", 0), ("top_p", 7)]
)
def test_what_it_cannot_do_is_a_400_that_names_the_field(
    gateway: Gateway, model: str, field: str, value: object
) -> None:
    response = gateway.http.post("/v1/chat/completions", json=question(model, "Hello") | {field: value})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == field


@MODELS
def test_a_prompt_that_is_too_long_is_a_400_with_both_numbers(gateway: Gateway, model: str) -> None:
    gateway.chat(model, "Hello")
    context = gateway.status(model)["info"]["context"]
    response = gateway.http.post("/v1/chat/completions", json=question(model, "1 2 3 4 " * context))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert str(context) in error["message"]


def test_a_client_that_leaves_ends_the_generation(gateway: Gateway) -> None:
    """The engine answers one request after the other: while it goes on with a long one, no short one is answered."""
    body = question("slow", "one two three four five six seven eight nine ten " * 20, stream=True)  # 40 s
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        next(line for line in response.iter_lines() if line.startswith("data: "))
    answer = gateway.http.post("/v1/chat/completions", json=question("slow", "short"), timeout=httpx2.Timeout(20))
    assert answer.json()["choices"][0]["message"]["content"] == "short"
