"""Who may talk to the gateway."""

from __future__ import annotations

import pytest

from .conftest import Server, Start

KEYS = "gateway: {api_keys: [first, second]}"


async def asked(server: Server, path: str = "/v1/models", **headers: str) -> tuple[int, str]:
    answer = await server.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return answer.status_code, answer.json().get("error", {}).get("code", "")


async def test_without_keys_anybody_on_this_machine_may_ask(server: Server) -> None:
    assert await asked(server) == (200, "")


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer first"}, {"authorization": "bearer second"}, {"x_api_key": "second"}],
)
async def test_a_key_opens(start: Start, headers: dict[str, str]) -> None:
    assert await asked(await start(KEYS), **headers) == (200, "")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"}, {"x_api_key": ""}, {"x_api_key": "fir"}],
)
async def test_without_a_right_key_nothing_opens(start: Start, headers: dict[str, str]) -> None:
    server = await start(KEYS)
    for path in ("/v1/models", "/api/status", "/nothing", "/", "//health"):
        assert await asked(server, path, **headers) == (401, "invalid_api_key")
    answer = await server.http.get("/v1/models", headers=headers)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"


async def test_health_is_open(start: Start) -> None:
    assert await asked(await start(KEYS), "/health") == (200, "")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:99", "localhost", "LOCALHOST:8484", "[::1]:8484", "192.168.1.7", "a.localhost"]
)
async def test_hosts_that_name_this_machine(server: Server, host: str) -> None:
    assert await asked(server, Host=host) == (200, "")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8484", "localhost.evil.example", "", "127.0.0.1.evil.example"]
)
async def test_other_hosts_are_refused(server: Server, host: str) -> None:
    assert await asked(server, Host=host) == (403, "host_not_allowed")


async def test_the_configured_host_is_allowed(start: Start) -> None:
    server = await start("gateway: {host: LocalHost.}")
    assert await asked(server, Host="box.example") == (403, "host_not_allowed")
    open_to_all = await start("gateway: {host: 0.0.0.0}")
    assert await asked(open_to_all, Host="box.example") == (200, "")


async def test_the_gateways_own_page_may_ask(server: Server) -> None:
    assert await asked(server, Origin=server.address) == (200, "")


@pytest.mark.parametrize(
    "origin", ["null", "https://evil.example", "http://127.0.0.1:1", "http://127.0.0.1", "nonsense", "http://[", ""]
)
async def test_pages_of_others_are_refused(server: Server, origin: str) -> None:
    assert await asked(server, Origin=origin) == (403, "origin_not_allowed")
    answer = await server.http.post("/models/load", json={"model": "echo"}, headers={"Origin": origin})
    assert answer.status_code == 403
    assert server.parts.supervisor.status_of("echo").state == "unloaded"
