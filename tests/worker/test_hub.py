"""Models from the hub, with the real huggingface_hub and a stand-in for the hub that answers as it does."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from bainmarie_protocol import Progress, Ready
from bainmarie_worker.hub_errors import meaning

from .a_hub import hub

LOCATE = """
import json, sys
from bainmarie_worker.errors import LoadError
from bainmarie_worker.hub import locate
try:
    print(json.dumps(["", locate(sys.argv[1], lambda progress: None), ""]))
except LoadError as error:
    print(json.dumps([error.code, error.message, error.hint]))
"""
ANSWERS = {
    "org/gated": (401, "GatedRepo"),
    "org/no-grant": (403, "GatedRepo"),
    "org/absent": (401, "RepoNotFound"),
    "org/gone": (404, "RepoNotFound"),
    "org/empty": (404, "RevisionNotFound"),
    "org/plain-401": (401, ""),
    "org/down": (500, ""),
    "org/late": (504, ""),
}


def locate(model, tmp_path, **variables):
    """(code, message or directory, hint), in a process of its own: huggingface_hub reads its variables once."""
    environ = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        if name not in variables:
            environ.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, model], check=False, env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("model", "code", "said", "hint"),
    [
        ("org/gated", "model_gated", "org/gated is gated", "ask for access"),
        ("org/no-grant", "model_gated", "org/no-grant is gated", "HF_TOKEN"),
        ("org/absent", "model_not_found", "there is no model org/absent", "Check the name"),
        ("org/gone", "model_not_found", "there is no model org/gone", "Check the name"),
        ("org/empty", "model_not_found", "its revision `main` is not", "page on the hub"),
        ("org/plain-401", "model_not_found", "there is no model org/plain-401", "hf auth login"),
        ("org/down", "hub_unreachable", "answers 500", "Try again"),
        ("org/late", "hub_unreachable", "answers 504", "Try again"),
    ],
)
def test_what_the_hub_answers_has_a_code_and_a_remedy(tmp_path, model, code, said, hint):
    with hub(ANSWERS) as endpoint:
        got, message, remedy = locate(model, tmp_path, HF_ENDPOINT=endpoint)
    assert (got, said in message, hint in remedy) == (code, True, True), (got, message, remedy)
    assert endpoint in message


def test_a_hub_that_refuses_the_connection(tmp_path):
    code, message, hint = locate("org/m", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, "http://127.0.0.1:9 cannot be reached" in message) == ("hub_unreachable", True), message
    assert "HTTPS_PROXY" in hint


def test_offline_is_no_network_trouble(tmp_path):
    code, message, hint = locate("org/m", tmp_path, HF_HUB_OFFLINE="1")
    assert (code, "HF_HUB_OFFLINE forbids" in message) == ("model_not_found", True), message
    assert "Unset HF_HUB_OFFLINE" in hint


def test_a_full_disk_is_said():
    assert meaning("org/m", OSError(errno.ENOSPC, "No space left on device")).code == "disk_full"


def test_a_private_model_needs_its_token(tmp_path, family):
    with hub({"org/private": family.base}, token="secret") as endpoint:
        assert locate("org/private", tmp_path, HF_ENDPOINT=endpoint)[0] == "model_not_found"
        assert locate("org/private", tmp_path, HF_ENDPOINT=endpoint, HF_TOKEN="secret")[0] == ""


def test_a_model_is_downloaded_with_progress_in_bytes_and_loaded(start_worker, family, tmp_path, monkeypatch):
    with hub({"org/tiny": family.base}) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        worker = start_worker("org/tiny")
        worker.until(Ready)
        told = [
            event for event in worker.events if isinstance(event, Progress) and "downloading org/tiny" in event.detail
        ]
        whole = sum(path.stat().st_size for path in family.base.iterdir() if path.suffix in (".json", ".safetensors"))
        in_bytes = [event for event in told if event.unit == "bytes" and event.total]
        assert max(event.current for event in in_bytes) >= whole
    local = start_worker(family.base)
    local.until(Ready)
    assert worker.text("Hello", temperature=0) == local.text("Hello", temperature=0)
