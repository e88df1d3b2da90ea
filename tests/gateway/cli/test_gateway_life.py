"""up, down, status, ls, and the gateways that other commands start."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import psutil


def test_a_detached_gateway_is_started_once_named_and_stopped(home) -> None:
    started = home.bain("up", "--detach", "--port", "0")
    assert started.returncode == 0, started.stderr
    told = json.loads((home.path / "gateway.json").read_text())
    assert started.stdout == f"the gateway is up: pid {told['pid']}, {told['address']}\n"
    assert psutil.Process(told["pid"]).ppid() != os.getpid()

    again = home.bain("up", "--detach")
    assert (again.returncode, again.stdout) == (0, f"the gateway is up already: pid {told['pid']}, {told['address']}\n")
    second = home.bain("up")
    assert second.returncode == 7
    assert f"pid {told['pid']}" in second.stderr

    stopped = home.bain("down")
    assert (stopped.returncode, stopped.stdout) == (0, f"the gateway at {told['address']} is stopped\n")
    assert not psutil.pid_exists(told["pid"])
    assert home.bain("down").returncode == 0


def test_a_detached_gateway_takes_the_place_of_another(tmp_path: Path, home) -> None:
    file = tmp_path / "bain.yaml"
    file.write_text("version: 1\ngateway: {port: 0}\n")
    arguments = ("up", "--detach", "--replace", "--config", str(file))
    first = home.bain(*arguments)  # there is none: an ordinary start
    assert first.returncode == 0, first.stderr
    old = json.loads((home.path / "gateway.json").read_text())
    replaced = home.bain(*arguments)
    told = json.loads((home.path / "gateway.json").read_text())
    assert told["pid"] != old["pid"]
    assert (told["address"], told["home"]) == (old["address"], old["home"])
    assert replaced.stdout == f"the gateway is up in place of pid {old['pid']}: pid {told['pid']}, {told['address']}\n"
    mixed = home.bain("up", "--replace", "--port", "0")
    assert mixed.returncode == 2
    assert "--replace keeps the address" in mixed.stderr
    file.write_text("version: 1\nmodles: {}\n")
    wrong = home.bain(*arguments)
    assert wrong.returncode == 3
    assert "unknown key 'modles'" in wrong.stderr
    assert json.loads((home.path / "gateway.json").read_text()) == told
    assert home.bain("down").returncode == 0
    assert not (home.path / "gateway.json").exists()


def test_a_gateway_that_cannot_start_says_why(home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for arguments in (["up", "--port", str(port)], ["up", "--detach", "--port", str(port)]):
            told = home.bain(*arguments)
            assert told.returncode == 7
            assert f"127.0.0.1:{port} is in use" in told.stderr
            assert "Traceback" not in told.stderr


def test_a_configuration_with_a_mistake_stops_every_start(tmp_path: Path, empty_home) -> None:
    (empty_home.path / "bain.yaml").write_text("version: 1\nmodles: {}\n")
    for arguments in (["up"], ["up", "--detach"], ["generate", "demo", "Hello"]):
        told = empty_home.bain(*arguments)
        assert told.returncode == 3, told.stderr
        assert "bain.yaml:2:1: unknown key 'modles'; did you mean 'models'?" in told.stderr


def test_without_a_gateway_commands_that_need_one_name_the_way_to_it(home) -> None:
    for arguments in (["status"], ["load", "fake"], ["unload", "fake"], ["restart", "fake"], ["logs", "fake"]):
        told = home.bain(*arguments)
        assert told.returncode == 7
        assert told.stderr == "error: no gateway is running\n  hint: Start it with: bain up --detach\n"


def test_a_gateway_json_of_a_dead_process_is_no_gateway(empty_home) -> None:
    record = {"pid": os.getpid(), "address": "http://127.0.0.1:9", "started_at": "2020-01-01T00:00:00+00:00"}
    (empty_home.path / "gateway.json").write_text(json.dumps(record))
    assert empty_home.bain("status").returncode == 7
    assert empty_home.bain("down").stderr == "no gateway is running\n"


def test_ls_knows_the_configured_models_without_a_gateway(home) -> None:
    listed = json.loads(home.bain("ls", "--json").stdout)
    assert {"demo", "fake", "slow"} <= {model["id"] for model in listed}
    assert {model["state"] for model in listed} == {"unloaded"}
    assert "fake" in home.bain("ls").stdout


def test_status_shows_what_is_loaded_and_why_something_is_not(home) -> None:
    with home.gateway():
        loaded = home.bain("load", "fake", "broken")
        assert loaded.returncode == 6
        assert loaded.stdout.startswith("fake is ready after ")
        assert "error: the fake engine was told to fail with model_incomplete" in loaded.stderr

        told = json.loads(home.bain("status", "--json").stdout)
        states = {model["id"]: model["state"] for model in told["models"]}
        assert (states["fake"], states["broken"], states["slow"]) == ("ready", "failed", "unloaded")

        shown = home.bain("status").stdout
        pid = next(model["pid"] for model in told["models"] if model["id"] == "fake")
        row = next(line for line in shown.splitlines() if line.startswith("fake "))
        assert "ready" in row
        assert str(pid) in row
        assert "broken: the fake engine was told to fail" in shown

        assert "worker started" in home.bain("logs", "fake").stdout
        assert home.bain("restart", "fake").returncode == 0
        told = json.loads(home.bain("status", "--json").stdout)
        assert next(model["pid"] for model in told["models"] if model["id"] == "fake") not in (None, pid)

        assert home.bain("unload", "fake").stdout == "fake is unloaded\n"
        listed = json.loads(home.bain("ls", "--json").stdout)
        assert next(model["state"] for model in listed if model["id"] == "fake") == "unloaded"


def test_an_unknown_model_is_an_error_with_the_known_ones(home) -> None:
    with home.gateway():
        for arguments in (["load", "fakee"], ["generate", "fakee", "x"], ["test", "fakee"], ["unload", "fakee"]):
            told = home.bain(*arguments)
            assert told.returncode == 4
            assert "there is no model 'fakee'" in told.stderr
            assert "fake" in told.stderr.split("hint: ")[1]


def test_a_failed_load_has_its_own_exit_code_and_the_end_of_the_log(home) -> None:
    told = home.bain("generate", "broken", "Hello")
    assert told.returncode == 6
    assert told.stdout == ""
    assert "last lines of the log" in told.stderr
    assert home.pid() is None


def test_a_foreground_gateway_tells_loads_and_ends_with_ctrl_c(home) -> None:
    up = home.terminal("up", "--port", "0")
    up.expect(r"serves at (http://127\.0\.0\.1:\d+)")
    up.expect("Ctrl-C stops it")
    assert home.bain("load", "fake").returncode == 0
    up.expect("fake: process")
    up.expect("fake: ready after")
    up.sendintr()
    up.expect("the gateway is stopped")
    up.expect_exact("\n")
    up.wait()
    assert up.exitstatus == 0
    assert home.pid() is None


def test_a_gateway_for_one_call_ends_with_it(home) -> None:
    told = home.bain("generate", "fake", "Hello there")
    assert (told.returncode, told.stdout) == (0, "Hello there\n")
    assert "`bain up --detach` keeps the model warm" in told.stderr
    assert home.pid() is None


def test_a_gateway_for_one_call_ends_when_its_caller_is_killed(home) -> None:
    chat = home.terminal("chat", "fake")
    chat.expect_exact("> ")
    gateway = psutil.Process(home.pid())
    worker = next(child for child in gateway.children(recursive=True) if not child.children())
    chat.kill(signal.SIGKILL)
    chat.wait()
    _, left = psutil.wait_procs([gateway, worker], timeout=10)
    assert left == []


def test_two_callers_at_once_share_one_gateway_or_follow_each_other(home) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lambda text: home.bain("chat", "fake", stdin=f"{text}\n"), ["a", "b", "c"]))
    answered = [each for each in told if each.returncode == 0]
    assert answered, told[0].stderr
    for each in told:
        assert each.returncode == 0 or "the connection to the gateway" in each.stderr, each.stderr
