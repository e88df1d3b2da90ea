"""The engine `command`: any server the user starts, through the gateway as clients see it."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.conftest import ROOT, Gateway

A_SERVER = ROOT / "tests" / "chaos" / "a_server.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux alone")


def model(*arguments: str, listen: str = "--port={port}", **keys: Any) -> dict[str, Any]:
    return {"engine": "command", "command": [sys.executable, str(A_SERVER), listen, *arguments], **keys}


@pytest.fixture
def serve(start_gateway: Callable[..., Gateway]) -> Callable[..., Gateway]:
    def start(models: dict[str, Any], **sections: Any) -> Gateway:
        return start_gateway(json.dumps({"version": 1, "models": models, **sections}))

    return start


def ask(gateway: Gateway, name: str, **body: Any) -> httpx2.Response:
    return gateway.http.post("/v1/chat/completions", json={"model": name, "messages": [], **body})


@pytest.mark.parametrize("listen", ["--port={port}", "--socket={socket}"])
def test_a_server_of_the_users_own_is_served_like_any_model(serve: Callable[..., Gateway], listen: str) -> None:
    gateway = serve({"mine": model("--load=0.3", listen=listen)})
    assert ask(gateway, "mine", tag="t").json()["choices"][0]["message"]["tag"] == "t"
    streamed = ask(gateway, "mine", n=2, stream=True)
    assert streamed.text.endswith("data: [DONE]\n\n")
    status = gateway.status("mine")
    assert (status["state"], status["engine"], status["environment"]) == ("ready", "command", "")
    assert status["memory_bytes"] >= 0
    assert psutil.Process(status["pid"]).is_running()
    assert "loading, step 1" in gateway.http.get("/api/models/mine/logs").text
    gateway.http.post("/models/unload", json={"model": "mine"})
    assert gateway.status("mine")["state"] == "unloaded"
    assert not psutil.pid_exists(status["pid"])


def test_it_is_found_in_a_grandchild_too(serve: Callable[..., Gateway]) -> None:
    command = ["sh", "-c", f"echo wrapped; {sys.executable} {A_SERVER} --port {{port}}; true"]
    gateway = serve({"mine": {"engine": "command", "command": command}})
    assert ask(gateway, "mine").status_code == 200


def test_a_crash_at_its_start_shows_its_last_words(serve: Callable[..., Gateway]) -> None:
    gateway = serve({"mine": model("--crash=7")})
    answer = ask(gateway, "mine")
    error = answer.json()["error"]
    assert answer.status_code == 503
    assert error["code"] == "worker_died"
    assert "exit code 7" in error["message"]
    assert "RuntimeError: out of luck" in error["message"]


def test_a_program_that_is_not_there(serve: Callable[..., Gateway]) -> None:
    gateway = serve({"mine": {"engine": "command", "command": ["no-such-program", "{port}"]}})
    error = ask(gateway, "mine").json()["error"]
    assert error["code"] == "spawn_failed"
    assert "no-such-program" in error["message"]
    assert "`command:`" in error["hint"]


def test_a_start_that_hangs_is_cut_and_one_that_says_something_is_not(serve: Callable[..., Gateway]) -> None:
    models = {"hangs": model("--hang"), "slow": model("--load=3")}
    gateway = serve(models, workers={"stall_limit": 1, "stop_grace": 1})
    assert ask(gateway, "hangs").json()["error"]["code"] == "stalled"
    assert ask(gateway, "slow").status_code == 200


def test_no_request_goes_to_a_stranger_on_its_port(serve: Callable[..., Gateway], tmp_path: Path) -> None:
    """The first start finds its port taken by the time it would listen; the load goes on with another port."""
    thief = tmp_path / "thief.py"
    thief.write_text(
        "import os, socket, sys, time\n"
        "first = not os.path.exists('starts'); open('starts', 'a').write(sys.argv[1] + '\\n')\n"
        "if first:\n"
        "    while not os.path.exists('taken'): time.sleep(0.01)\n"
        f"os.execv(sys.executable, [sys.executable, {str(A_SERVER)!r}, '--port', sys.argv[1]])\n"
    )
    gateway = serve({"mine": {"engine": "command", "command": [sys.executable, str(thief), "{port}"]}})
    gateway.http.post("/models/load", json={"model": "mine"})
    starts = tmp_path / "starts"
    while not (starts.exists() and starts.read_text().endswith("\n")):
        pass
    with socket.create_server(("127.0.0.1", int(starts.read_text()))) as stranger:
        (tmp_path / "taken").touch()
        assert ask(gateway, "mine").status_code == 200
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    assert len(starts.read_text().split()) == 2


def test_it_starts_in_the_files_folder_with_the_users_variables(
    serve: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "yes")
    program = "import os, pathlib; pathlib.Path('seen').write_text(repr(dict(os.environ))); raise SystemExit(1)"
    gateway = serve({"mine": {"engine": "command", "command": [sys.executable, "-c", program, "{port}"]}})
    assert ask(gateway, "mine").status_code == 503
    seen = (tmp_path / "seen").read_text()
    assert "'MINE': 'yes'" in seen
    assert "BAIN_HOME" not in seen
    assert os.environ["PATH"] in seen
