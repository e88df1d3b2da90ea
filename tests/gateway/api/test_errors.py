"""Every error has the OpenAI shape."""

from __future__ import annotations

import asyncio

import pytest

from bainmarie.api.body import MAX_BYTES

from .conftest import Server


def error(answer: object) -> dict[str, object]:
    found = answer.json()["error"]  # type: ignore[attr-defined]
    assert {"message", "type", "code", "param"} <= set(found)
    return found  # type: ignore[no-any-return]


async def test_unknown_address(server: Server) -> None:
    answer = await server.http.get("/nothing/here")
    assert answer.status_code == 404
    assert error(answer)["code"] == "unknown_url"
    assert "GET /nothing/here" in str(error(answer)["message"])


@pytest.mark.parametrize("path", ["/v1/models/", "/health/"])
async def test_no_address_redirects(server: Server, path: str) -> None:
    assert (await server.http.get(path)).status_code == 404


async def test_wrong_method(server: Server) -> None:
    answer = await server.http.get("/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert error(answer)["code"] == "method_not_allowed"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_object(server: Server, body: bytes) -> None:
    answer = await server.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert error(answer)["code"] == "invalid_json"


async def test_a_missing_model(server: Server) -> None:
    answer = await server.http.post("/v1/chat/completions", json={"messages": []})
    assert answer.status_code == 400
    assert (error(answer)["code"], error(answer)["param"]) == ("missing_parameter", "model")


@pytest.mark.parametrize(("key", "value"), [("model", 1), ("model", True), ("stream", "yes"), ("stream", 1)])
async def test_a_wrong_type(server: Server, key: str, value: object) -> None:
    answer = await server.http.post("/v1/chat/completions", json={"model": "echo", key: value})
    assert answer.status_code == 400
    assert (error(answer)["code"], error(answer)["param"]) == ("invalid_type", key)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/generate", "/models/load", "/models/unload"]
)
async def test_an_unknown_model_is_answered_with_the_known_ones(server: Server, path: str) -> None:
    answer = await server.http.post(path, json={"model": "ecko", "prompt": "x"})
    assert answer.status_code == 404
    assert (error(answer)["code"], error(answer)["param"]) == ("model_not_found", "model")
    assert "Did you mean 'echo'?" in str(error(answer)["hint"])
    assert "demo-pirate-merged" in str(error(answer)["hint"])


async def test_a_body_that_says_it_is_too_large(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rsplit(":", 1)[1]))
    head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n"
    writer.write(head.encode())
    assert b"413" in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_becomes_too_large(server: Server) -> None:
    async def chunks():  # type: ignore[no-untyped-def]
        for _ in range(MAX_BYTES // 2**20 + 1):
            yield b" " * 2**20

    answer = await server.http.post("/generate", content=chunks())
    assert answer.status_code == 413
    assert error(answer)["code"] == "request_too_large"
