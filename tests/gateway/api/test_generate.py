"""POST /generate: one prompt, one text."""

from __future__ import annotations

import asyncio

import pytest

from .conftest import MODELS, Server, Start


async def test_a_chat_model(server: Server) -> None:
    body = {"model": "echo", "prompt": "Hello there", "max_new_tokens": 50, "temperature": 0, "top_p": 1, "seed": 3}
    answer = await server.http.post("/generate", json=body)
    assert answer.status_code == 200
    assert answer.json()["text"] == "Hello there"
    assert answer.json()["usage"]["completion_tokens"] > 0


async def test_a_plain_model(server: Server) -> None:
    answer = await server.http.post("/generate", json={"model": "plain", "prompt": "Once upon"})
    direct = await server.http.post("/v1/completions", json={"model": "plain", "prompt": "Once upon"})
    assert answer.json()["text"] == direct.json()["choices"][0]["text"] != ""


async def test_max_new_tokens_is_kept(server: Server) -> None:
    body = {"model": "echo", "prompt": "one two three four five six", "max_new_tokens": 2}
    answer = (await server.http.post("/generate", json=body)).json()
    assert answer["usage"]["completion_tokens"] == 2


async def test_without_a_model_it_is_the_demo_model(start: Start) -> None:
    server = await start(MODELS + "  demo: {engine: fake}\n")
    answer = (await server.http.post("/generate", json={"prompt": "Hello"})).json()
    assert (answer["model"], answer["text"]) == ("demo", "Hello")


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", None), ("prompt", 3), ("max_new_tokens", "5"), ("temperature", "hot"), ("seed", 1.5)],
)
async def test_wrong_fields_are_named(server: Server, field: str, value: object) -> None:
    answer = await server.http.post("/generate", json={"model": "echo", "prompt": "x", field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


async def test_a_client_that_leaves_ends_the_work(server: Server) -> None:
    await server.parts.supervisor.load("long")
    asking = asyncio.create_task(
        server.http.post("/generate", json={"model": "long", "prompt": " ".join(["word"] * 500)})
    )
    await server.until(lambda: server.parts.supervisor.status_of("long").in_flight == 1)
    asking.cancel()
    await asyncio.wait((asking,))
    await server.until(lambda: server.parts.supervisor.status_of("long").in_flight == 0)
