"""The demo model stays in its process, with its weights and its adapter, when the gateway is replaced or killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
from tests.conftest import BAIN, Gateway, clean_environ

from bainmarie.workers.sockets import socket_path

SURVIVE = "version: 1\nworkers: {survive: 120s}\n"


def bain(gateway: Gateway, folder: Path, *arguments: str) -> str:
    environ = {**clean_environ(gateway.home), "BAIN_CONFIG": str(folder / "bain.yaml")}
    done = subprocess.run(
        [str(BAIN), *arguments], check=False, env=environ, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def counted(gateway: Gateway, status: dict[str, Any]) -> dict[str, Any]:
    """What the worker itself counts."""
    transport = httpx2.HTTPTransport(uds=socket_path(gateway.home, status["worker"]))
    with httpx2.Client(transport=transport, base_url="http://worker", timeout=60) as client:
        return client.get("/info").json()


def test_the_demo_model_outlives_two_gateways(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start_gateway(SURVIVE)
    texts = [gateway.chat(model, "Who are you?")["choices"] for model in ("demo", "demo-pirate")]
    before = gateway.status("demo")
    requests = counted(gateway, before)["requests"]

    assert "in place of pid" in bain(gateway, tmp_path, "up", "--replace", "--detach")
    assert gateway.process.wait(60) == 0
    second = gateway.http.get("/api/status").json()["gateway"]["pid"]
    assert second != gateway.process.pid
    assert gateway.status("demo-pirate")["state"] == "ready"
    assert [gateway.chat(model, "Who are you?")["choices"] for model in ("demo", "demo-pirate")] == texts

    psutil.Process(second).kill()
    psutil.wait_procs([psutil.Process(second)] if psutil.pid_exists(second) else [], timeout=10)
    port = gateway.address.rpartition(":")[2]
    bain(gateway, tmp_path, "up", "--detach", "--port", port)
    after = gateway.status("demo")
    assert [after[key] for key in ("state", "pid", "loaded_at", "info")] == [
        before[key] for key in ("state", "pid", "loaded_at", "info")
    ]
    assert [gateway.chat(model, "Who are you?")["choices"] for model in ("demo", "demo-pirate")] == texts
    now = counted(gateway, after)
    assert now["loads"] == 1
    assert now["requests"] == requests + 4

    assert "is stopped" in bain(gateway, tmp_path, "down")
    deadline = time.monotonic() + 20
    while psutil.pid_exists(before["pid"]) and psutil.Process(before["pid"]).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
