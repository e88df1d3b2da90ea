"""The Python interface, as a program uses it: on a gateway of its own, and on one that runs already."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bainmarie import InferenceConfig, ToolEnabledInferenceConfig, run_inference, run_inference_with_tools
from bainmarie.errors import BadRequest, LoadFailed, NotFound
from bainmarie.own_gateway import gateway

SUM = {"content": "I work it out.", "tool_calls": [{"name": "calculator", "arguments": {"expression": "173 * 29"}}]}
WRITE = {"tool_calls": [{"name": "write_file", "arguments": {"path": "a.txt", "content": "hello"}}]}
MISSING = {"tool_calls": [{"name": "read_file", "arguments": {"path": "nothing.txt"}}]}
MODELS = {
    "fake": {"engine": "fake"},
    "broken": {"engine": "fake", "options": {"fail_load": "model_incomplete"}},
    "sums": {"engine": "fake", "options": {"script": [SUM, {"content": "It is 5017."}]}},
    "mixed": {"engine": "fake", "options": {"script": [SUM, MISSING, WRITE, WRITE, {"content": "Done."}]}},
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, kept_home: Path) -> Iterator[Path]:
    """This process's home for the module; its gateway ends with the module."""
    path = tmp_path_factory.mktemp("home")
    (path / "environments").symlink_to(kept_home / "environments", target_is_directory=True)
    (path / "bain.yaml").write_text(json.dumps({"models": MODELS}))
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("BAIN_HOME", str(path))
        environ.setenv("BAIN_CONFIG", str(path / "bain.yaml"))
        environ.delenv("BAIN_URL", raising=False)
        yield path
        gateway.close()
    assert not (path / "gateway.json").exists()


def task(model: str, folder: Path, **fields: Any) -> ToolEnabledInferenceConfig:
    return ToolEnabledInferenceConfig(prompt="Do it.", model_id=model, workspace=folder, **fields)


def test_one_gateway_serves_all_calls_of_a_process(own: Path) -> None:
    assert run_inference(InferenceConfig(prompt="Hello there", model_id="fake")) == "Hello there"
    pid = json.loads((own / "gateway.json").read_text())["pid"]
    assert pid != os.getpid()
    assert run_inference(InferenceConfig(prompt="again", model_id="fake", temperature=0, seed=1)) == "again"
    assert json.loads((own / "gateway.json").read_text())["pid"] == pid
    assert run_inference(InferenceConfig(prompt="one two three", model_id="fake", max_new_tokens=1)) != "one two three"


async def test_it_works_in_a_thread_and_below_a_running_event_loop(own: Path) -> None:
    config = InferenceConfig(prompt="below a loop", model_id="fake")
    assert run_inference(config) == "below a loop"
    assert await asyncio.to_thread(run_inference, config) == "below a loop"
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(run_inference(config))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["below a loop"] * 4


def test_a_run_returns_its_text_and_its_log(own: Path, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    lines: list[str] = []
    text, log = run_inference_with_tools(
        task("sums", tmp_path), tool_callback=told.append, approval_callback=lambda *_: True, log_callback=lines.append
    )
    assert text == "It is 5017."
    assert log == [
        {
            "tool": "calculator",
            "args": {"expression": "173 * 29"},
            "status": "success",
            "result": "5017",
            "iteration": 1,
        }
    ]
    assert told == log
    assert any("calculator" in line for line in lines)
    assert lines[-1] == "run completed"


def test_every_outcome_of_a_call_is_logged(own: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def decide(tool: str, args: Any) -> bool:
        asked.append((tool, dict(args)))
        return tool != "write_file"

    text, log = run_inference_with_tools(task("mixed", tmp_path), approval_callback=decide)
    assert [(entry["tool"], entry["status"], entry["iteration"]) for entry in log] == [
        ("calculator", "success", 1),
        ("read_file", "error", 2),
        ("write_file", "denied", 3),
    ]
    assert "nothing.txt" in log[1]["error"]
    assert "result" not in log[2]
    assert asked[-1] == ("write_file", {"path": "a.txt", "content": "hello"})
    assert isinstance(text, str)
    assert list(tmp_path.iterdir()) == []


def test_without_an_approval_callback_what_would_be_asked_is_denied(own: Path, tmp_path: Path) -> None:
    _, log = run_inference_with_tools(task("sums", tmp_path))
    assert [entry["status"] for entry in log] == ["denied"]
    _, log = run_inference_with_tools(task("sums", tmp_path, approval="allow"))
    assert [entry["status"] for entry in log] == ["success"]


def test_always_is_asked_once(own: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def decide(tool: str, args: Any) -> Any:
        asked.append(tool)
        return "always"

    _, log = run_inference_with_tools(task("mixed", tmp_path), approval_callback=decide)
    assert [entry["tool"] for entry in log] == ["calculator", "read_file", "write_file", "write_file"]
    assert asked == ["calculator", "read_file", "write_file"]


@pytest.mark.parametrize("place", ["tool_callback", "approval_callback", "log_callback"])
def test_an_exception_in_a_callback_cancels_the_run_and_passes_through(own: Path, tmp_path: Path, place: str) -> None:
    class Mine(Exception):
        pass

    def fail(*_: Any) -> Any:
        raise Mine

    callbacks: dict[str, Any] = {"approval_callback": lambda *_: True, place: fail}
    with pytest.raises(Mine):
        run_inference_with_tools(task("mixed", tmp_path), **callbacks)
    assert list(tmp_path.iterdir()) == []
    assert run_inference(InferenceConfig(prompt="still there", model_id="fake")) == "still there"


def test_errors_are_what_the_gateway_raised(own: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no model 'nobody'"):
        run_inference(InferenceConfig(prompt="x", model_id="nobody"))
    with pytest.raises(LoadFailed, match="model_incomplete"):
        run_inference(InferenceConfig(prompt="x", model_id="broken"))
    with pytest.raises(LoadFailed, match="model_incomplete"):
        run_inference_with_tools(task("broken", tmp_path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": None},
        {"model_id": ""},
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
        {"temperature": -0.1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_k": 0},
        {"seed": 1.5},
        {"max_tool_iterations": 0},
        {"tools": "calculator"},
        {"approval": "maybe"},
        {"workspace": "/no/such/folder"},
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(wrong))):
        ToolEnabledInferenceConfig(**{"prompt": "x", "model_id": "fake", **wrong})


def test_the_gateway_ends_with_a_process_that_is_killed(own: Path) -> None:
    gateway.close()
    program = (
        "from bainmarie import *; import time\n"
        "print(run_inference(InferenceConfig(prompt='up', model_id='fake')), flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "up\n"
        started = psutil.Process(json.loads((own / "gateway.json").read_text())["pid"])
        family = [started, *started.children(recursive=True)]
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, left = psutil.wait_procs(family, timeout=10)
    assert left == []


def test_a_gateway_that_has_gone_is_replaced(own: Path) -> None:
    config = InferenceConfig(prompt="back", model_id="fake")
    assert run_inference(config) == "back"
    first = psutil.Process(json.loads((own / "gateway.json").read_text())["pid"])
    first.kill()
    psutil.wait_procs([first], timeout=10)
    assert run_inference(config) == "back"
    assert json.loads((own / "gateway.json").read_text())["pid"] != first.pid
