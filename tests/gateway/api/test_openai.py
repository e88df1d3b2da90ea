"""The OpenAI dialect, asked by OpenAI's own client."""

from __future__ import annotations

import openai
import pytest

from .conftest import Server, Start

HELLO = [{"role": "user", "content": "Hello there"}]


async def test_models_are_listed_without_any_being_loaded(server: Server) -> None:
    async with server.openai() as client:
        names = [model.id async for model in client.models.list()]
        assert names == [spec.name for spec in server.parts.catalog]
        assert (await client.models.retrieve("echo")).id == "echo"
        with pytest.raises(openai.NotFoundError, match="there is no model 'nope'"):
            await client.models.retrieve("nope")
    assert {status.state for status in server.parts.supervisor.status()} == {"unloaded"}


async def test_a_model_name_may_hold_slashes(start: Start) -> None:
    server = await start("models: {org/name:v1: {engine: fake}}")
    async with server.openai() as client:
        assert (await client.models.retrieve("org/name:v1")).id == "org/name:v1"
        answer = await client.chat.completions.create(model="org/name:v1", messages=HELLO)
    assert answer.choices[0].message.content == "Hello there"


async def test_a_chat_completion(server: Server) -> None:
    async with server.openai() as client:
        answer = await client.chat.completions.create(model="echo", messages=HELLO)
    assert answer.model == "echo"
    assert answer.choices[0].message.content == "Hello there"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


async def test_a_streamed_chat_completion(server: Server) -> None:
    async with server.openai() as client:
        stream = await client.chat.completions.create(model="echo", messages=HELLO, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(pieces) == "Hello there"
    assert len(pieces) > 1


async def test_a_completion(server: Server) -> None:
    async with server.openai() as client:
        answer = await client.completions.create(model="plain", prompt="Once upon")
        assert answer.choices[0].text.strip()
        stream = await client.completions.create(model="plain", prompt="Once upon", stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    assert text == answer.choices[0].text


async def test_an_error_of_the_worker_comes_through_with_its_status(server: Server) -> None:
    async with server.openai() as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="echo", messages="nonsense", stream=stream)  # type: ignore[call-overload]
            assert caught.value.body is not None


async def test_one_load_serves_every_request(server: Server) -> None:
    async with server.openai() as client:
        for _ in range(3):
            await client.chat.completions.create(model="echo", messages=HELLO)
    async with server.parts.supervisor.lease("echo") as lease:
        assert (await lease.client.json("GET", "/info"))["loads"] == 1
