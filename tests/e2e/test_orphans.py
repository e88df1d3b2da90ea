"""Whoever is killed, nothing stays: with real weights, while loading and when ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx2
import psutil
import pytest
from tests.conftest import Gateway

PATIENCE = 10.0
"""Seconds after which a left process fails the test; the promise is 2 s, printed by every test."""


def kill_and_count(gateway: Gateway) -> None:
    tree = gateway.processes()
    assert any("bainmarie_worker" in " ".join(p.cmdline()) for p in tree)
    began = time.monotonic()
    gateway.process.kill()
    gateway.process.wait()
    _, alive = psutil.wait_procs(tree, timeout=PATIENCE)
    print(f"all {len(tree)} processes gone after {time.monotonic() - began:.2f} s")
    assert not alive


def test_gateway_killed_while_the_model_is_ready(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway()
    gateway.chat("demo", "Hello", max_tokens=4)
    kill_and_count(gateway)


def test_gateway_killed_while_the_model_loads(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway()

    def ask() -> None:
        with pytest.raises(httpx2.TransportError):
            gateway.chat("demo", "Hello")

    with gateway.http.stream("GET", "/api/events") as events:
        caller = threading.Thread(target=ask)
        caller.start()
        for line in events.iter_lines():
            if '"loading"' in line:
                break
        kill_and_count(gateway)
    caller.join()


def test_worker_killed_the_next_request_gets_a_new_one(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway()
    gateway.chat("demo", "Hello", max_tokens=4)
    first = gateway.status("demo")["pid"]
    psutil.Process(first).kill()
    for _ in range(100):
        response = gateway.http.post(
            "/v1/chat/completions", json={"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
        )
        if response.status_code == 200:
            break
        error = response.json()["error"]
        assert error["message"]
        assert error["code"] == "worker_died"
        time.sleep(0.1)
    assert response.status_code == 200
    assert gateway.status("demo")["pid"] != first
