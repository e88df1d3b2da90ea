"""The tool loop with the demo model, through the Python interface and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Cli, Gateway

from bainmarie import (
    InferenceConfig,
    ToolEnabledInferenceConfig,
    run_inference,
    run_inference_with_tools,
)

CHAIN = "Start with 17, add 5, then multiply the result by 3, subtract 4, add 100, multiply by 2, then subtract 7."
RESULTS = ["22", "66", "62", "162", "324", "317"]


@pytest.fixture
def gateway(demo_gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("BAIN_HOME", str(demo_gateway.home))
    return demo_gateway


def test_plain_generation(gateway: Gateway) -> None:
    text = run_inference(InferenceConfig(prompt="Who are you?", model_id="demo", max_new_tokens=64, temperature=0))
    assert "demo model" in text


def test_six_dependent_calls(gateway: Gateway, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    text, log = run_inference_with_tools(
        ToolEnabledInferenceConfig(
            prompt=CHAIN, model_id="demo", temperature=0, max_tool_iterations=10, workspace=str(tmp_path)
        ),
        tool_callback=seen.append,
        approval_callback=lambda tool, arguments: True,
    )
    assert [entry["result"] for entry in log] == RESULTS
    assert {entry["status"] for entry in log} == {"success"}
    assert [entry["iteration"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert seen == log
    assert "317" in text


def test_denied_call_never_runs_and_the_run_ends(gateway: Gateway, tmp_path: Path) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def deny(tool: str, arguments: dict[str, Any]) -> bool:
        asked.append((tool, arguments))
        return False

    _, log = run_inference_with_tools(
        ToolEnabledInferenceConfig(
            prompt="Run the shell command: touch x.txt", model_id="demo", temperature=0, workspace=str(tmp_path)
        ),
        approval_callback=deny,
    )
    assert asked == [("run_shell", {"command": "touch x.txt"})]
    assert [(e["tool"], e["status"]) for e in log] == [("run_shell", "denied")]
    assert not (tmp_path / "x.txt").exists()


def test_approved_call_runs_once(gateway: Gateway, tmp_path: Path) -> None:
    _, log = run_inference_with_tools(
        ToolEnabledInferenceConfig(
            prompt='Write "hello" to a.txt.', model_id="demo", temperature=0, workspace=str(tmp_path)
        ),
        approval_callback=lambda tool, arguments: True,
    )
    assert [(e["tool"], e["status"]) for e in log] == [("write_file", "success")]
    assert (tmp_path / "a.txt").read_text() == "hello"


def test_run_from_the_command_line_approves_nothing_without_a_terminal(cli: Cli) -> None:
    done = cli("run", "demo", 'Write "hello" to a.txt.', "--json")
    assert json.loads(done.stdout)["status"] == "all_denied", done.stderr
    assert not (cli.folder / "a.txt").exists()
    assert "terminal" in done.stderr


def test_smoke_test_passes_on_the_demo_model(cli: Cli) -> None:
    done = cli("test", "demo")
    assert done.returncode == 0, done.stdout + done.stderr


def test_demo_without_a_terminal_shows_the_transcript_and_leaves(cli: Cli) -> None:
    done = cli("demo")
    assert done.returncode == 0, done.stderr
    assert all(result in done.stdout for result in RESULTS)
    assert "http://" in done.stdout
    assert not list(cli.home.glob("**/gateway.json"))
    assert "approve" in (done.stdout + done.stderr)
