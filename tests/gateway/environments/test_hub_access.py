"""What the hub answers, told before anything is built. The hub is a small server of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from bainmarie.catalog import ModelSpec
from bainmarie.environments.hub_access import check_hub_access
from bainmarie.errors import LoadFailed

ANSWERS = {
    "org/open": (200, ""),
    "org/moved": (307, ""),
    "org/gated": (401, "GatedRepo"),
    "org/refused": (403, "GatedRepo"),
    "org/absent": (401, "RepoNotFound"),
    "org/gguf-only": (404, "EntryNotFound"),
    "org/empty": (404, "RevisionNotFound"),
    "org/broken": (500, ""),
}
SPEC = ModelSpec("m", model="org/open")


class Hub(BaseHTTPRequestHandler):
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_HEAD(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        status, code = ANSWERS[self.path.removeprefix("/hub/").removesuffix("/resolve/main/config.json")]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    Hub.asked = []
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield {"HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}/hub"}
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("model", ["org/open", "org/moved", "org/broken"])
def test_what_may_be_fetched_or_is_unclear_passes(environ: dict[str, str], model: str) -> None:
    check_hub_access(replace(SPEC, model=model), environ)
    assert len(Hub.asked) == 1


@pytest.mark.parametrize(
    ("model", "code", "hint"),
    [
        ("org/gated", "model_gated", "hf auth login"),
        ("org/refused", "model_gated", "hf auth login"),
        ("org/absent", "model_not_found", "`models: m: model:`"),
        ("org/empty", "model_not_found", "page on the hub"),
        ("org/gguf-only", "model_not_found", "Hugging Face format"),
    ],
)
def test_what_the_hub_refuses(environ: dict[str, str], model: str, code: str, hint: str) -> None:
    with pytest.raises(LoadFailed, match=model) as failure:
        check_hub_access(replace(SPEC, model=model), environ)
    assert failure.value.code == code
    assert hint in failure.value.hint


@pytest.mark.parametrize("place", ["variable", "file"])
def test_the_token_goes_to_the_hub(environ: dict[str, str], tmp_path: Path, place: str) -> None:
    if place == "variable":
        environ["HF_TOKEN"] = "secret"
    else:
        (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
        (tmp_path / ".cache" / "huggingface" / "token").write_text("secret\n")
    check_hub_access(SPEC, environ)
    assert Hub.asked == [("/hub/org/open/resolve/main/config.json", "Bearer secret")]


def test_what_is_in_the_cache_is_not_asked_for(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".cache" / "huggingface" / "hub" / "models--org--gated" / "snapshots" / "abc").mkdir(parents=True)
    check_hub_access(replace(SPEC, model="org/gated"), environ)
    check_hub_access(replace(SPEC, model=str(tmp_path)), environ)
    check_hub_access(replace(SPEC, engine="fake"), environ)
    assert Hub.asked == []


def test_offline_is_said_at_once(environ: dict[str, str]) -> None:
    with pytest.raises(LoadFailed, match="HF_HUB_OFFLINE forbids"):
        check_hub_access(SPEC, {**environ, "HF_HUB_OFFLINE": "1"})
    assert Hub.asked == []


def test_a_hub_that_cannot_be_reached_is_left_to_the_worker(tmp_path: Path) -> None:
    check_hub_access(SPEC, {"HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"})
