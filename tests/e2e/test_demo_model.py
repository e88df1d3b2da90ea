"""The demo model, as a client of the OpenAI API sees it: it answers, calls tools, streams the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.conftest import Gateway

from bainmarie.agent.tools.builtin import BuiltinTools


@pytest.fixture
def client(demo_gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_gateway.address}/v1", api_key="none", max_retries=0, timeout=240) as client:
        yield client


def ask(client: openai.OpenAI, text: str, **fields: Any) -> Any:
    return client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": text}], temperature=0, **fields
    )


def test_it_answers_and_counts_tokens(client: openai.OpenAI) -> None:
    answer = ask(client, "Who are you?")
    assert "demo model" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens > 3


def test_stream_is_the_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = ask(client, "Who are you?").choices[0].message.content
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in ask(client, "Who are you?", stream=True) if chunk.choices
    ]
    assert "".join(pieces) == whole
    assert len(pieces) > 3


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("What is 173 * 29?", "calculator", {"expression": "173 * 29"}),
        ("Read the file notes.txt.", "read_file", {"path": "notes.txt"}),
        ("List the folder docs.", "list_dir", {"path": "docs"}),
        ('Write "hello" to a.txt.', "write_file", {"path": "a.txt", "content": "hello"}),
        ("Run the shell command: touch x.txt", "run_shell", {"command": "touch x.txt"}),
        ("What time is it in Paris?", "current_time", {"place": "Paris"}),
    ],
)
def test_it_calls_each_tool(
    client: openai.OpenAI, tmp_path: Path, text: str, name: str, arguments: dict[str, str]
) -> None:
    tools: Any = [tool.definition for tool in BuiltinTools(tmp_path).definitions()]
    choice = ask(client, text, tools=tools).choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (name, arguments)
    streamed = {"name": "", "arguments": ""}
    for chunk in ask(client, text, tools=tools, stream=True):
        for piece in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            streamed["name"] += piece.function.name or ""
            streamed["arguments"] += piece.function.arguments or ""
    assert streamed == {"name": name, "arguments": call.function.arguments}


def test_adapter_answers_otherwise_on_the_same_worker_and_like_the_merged_model(demo_gateway: Gateway) -> None:
    gateway = demo_gateway
    texts = {
        model: gateway.chat(model, "Who are you?")["choices"][0]["message"]["content"]
        for model in ("demo", "demo-pirate", "demo-pirate-merged")
    }
    assert texts["demo"] != texts["demo-pirate"]
    assert "rr" in texts["demo-pirate"] or "hoy" in texts["demo-pirate"]
    assert "rr" in texts["demo-pirate-merged"] or "hoy" in texts["demo-pirate-merged"]
    assert gateway.chat("demo", "Who are you?")["choices"][0]["message"]["content"] == texts["demo"]
    pids = {model: gateway.status(model)["pid"] for model in texts}
    assert pids["demo"] == pids["demo-pirate"] != pids["demo-pirate-merged"]
