"""A model is loaded once and stays; many first callers start one worker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import httpx2
import psutil
from tests.conftest import Gateway

from bainmarie.carried import demo_model


def test_weights_load_once(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway()
    first = gateway.chat("demo", "Hello", max_tokens=32)
    pid = gateway.status("demo")["pid"]
    for _ in range(9):
        assert gateway.chat("demo", "Hello", max_tokens=32)["choices"] == first["choices"]
    status = gateway.status("demo")
    assert (status["state"], status["pid"], status["restarts"]) == ("ready", pid, 0)
    assert status["info"]["loads"] == 1


async def test_two_hundred_first_requests_start_one_worker(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway()
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=gateway.address, timeout=240, limits=limits) as client:
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(200)))
    assert [a.status_code for a in answers] == [200] * 200
    assert len({a.json()["choices"][0]["message"]["content"] for a in answers}) == 1
    assert gateway.status("demo")["restarts"] == 0
    assert gateway.status("demo")["info"]["loads"] == 1
    assert [p.pid for p in gateway.processes() if is_worker(p)] == [gateway.status("demo")["pid"]]


def test_two_versions_of_transformers_are_warm_together(start_gateway: Callable[..., Gateway]) -> None:
    """Each model runs on its own environment's versions and interpreter; neither is the gateway's."""
    gateway = start_gateway(
        """
version: 1
models:
  old: {model: MODEL, environment: old}
  new: {model: MODEL, environment: new}
environments:
  old: {python: "3.11", packages: ["torch==2.13.0", "transformers==4.57.6", "safetensors"]}
  new: {python: "3.11", packages: ["torch==2.13.0", "transformers==5.23.0", "safetensors"]}
""".replace("MODEL", str(demo_model()))
    )
    assert gateway.chat("old", "Hello")["choices"] == gateway.chat("new", "Hello")["choices"]
    old, new = gateway.status("old"), gateway.status("new")
    assert (old["state"], new["state"]) == ("ready", "ready")
    assert old["info"]["packages"]["transformers"] == "4.57.6"
    assert new["info"]["packages"]["transformers"] == "5.23.0"
    assert len({old["info"]["interpreter"], new["info"]["interpreter"], sys.executable}) == 3
    assert old["pid"] != new["pid"]


def is_worker(process: psutil.Process) -> bool:
    """The shim names the worker's command too, as its argument; forked processes have one command and other names."""
    if process.name().startswith("bain "):
        return process.name() == "bain worker"
    command = " ".join(process.cmdline())
    return "bainmarie_worker" in command and "shim.py" not in command
