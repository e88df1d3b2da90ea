"""What goes wrong is said clearly, with the right exit code, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Cli, Gateway

from bainmarie.carried import demo_model


def write_config(cli: Cli, text: str) -> None:
    (cli.folder / "bain.yaml").write_text(text)


def test_unknown_model_names_the_known_ones(cli: Cli) -> None:
    done = cli("generate", "dmo", "Hello")
    assert done.returncode == 4
    assert "no model 'dmo'" in done.stderr
    assert "'demo'" in done.stderr
    assert done.stdout == ""


def test_typo_in_the_configuration_has_a_place_and_the_nearest_key(cli: Cli) -> None:
    write_config(cli, "version: 1\nmodels:\n  qwen:\n    modle: ./x\n")
    done = cli("config", "validate")
    assert done.returncode == 3
    line = done.stderr.strip().splitlines()[0]
    assert "bain.yaml:4:5" in line
    assert "'modle'" in line
    assert "'model'" in line


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["does not exist"]),
        (["model.safetensors", "tokenizer.json"], ["config.json"]),
        (["config.json", "tokenizer.json"], ["safetensors"]),
    ],
)
def test_incomplete_model_directory_names_what_is_missing(cli: Cli, files: list[str], words: list[str]) -> None:
    folder = cli.folder / "broken"
    for name in files:
        folder.mkdir(exist_ok=True)
        shutil.copy(demo_model() / name, folder / name)
    write_config(cli, "version: 1\nmodels:\n  broken: {model: ./broken}\n")
    done = cli("generate", "broken", "Hello")
    assert done.returncode == 6, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr


def write_adapter(folder: Path, width: int) -> None:
    """A LoRA for `model.layers.0.self_attn.q_proj` of a base whose hidden size is `width`, as a safetensors file."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        )
    )
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    shapes = {name.format("A"): [2, width], name.format("B"): [width, 2]}
    header, offset = {}, 0
    for key, (rows, columns) in shapes.items():
        size = rows * columns * 4
        header[key] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def test_adapter_of_another_base_says_both_shapes(cli: Cli) -> None:
    write_adapter(cli.folder / "lora", 48)
    write_config(cli, f"version: 1\nmodels:\n  wrong: {{model: {demo_model()}, adapter: ./lora}}\n")
    done = cli("generate", "wrong", "Hello")
    assert done.returncode == 6, done.stderr
    assert "48" in done.stderr
    assert "q_proj" in done.stderr
    assert "Traceback" not in done.stderr


def test_adapter_of_a_newer_peft_fails_alone_and_says_what_mends_it(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    adapter = shutil.copytree(demo_model("demo-pirate"), tmp_path / "newer")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "peft_version": "99.1.0"}))
    packages = "torch==2.13.0, transformers==5.23.0, safetensors>=0.4.3, peft==0.21.2, accelerate==1.15.0"
    gateway = start_gateway(f"""
version: 1
environments:
  mine: {{packages: [{packages}]}}
models:
  base: {{model: {demo_model()}, environment: mine}}
  newer: {{model: {demo_model()}, adapter: {adapter}, environment: mine}}
""")
    body = {"model": "newer", "messages": [{"role": "user", "content": "Hello"}]}
    failed = gateway.http.post("/v1/chat/completions", json=body)
    error = failed.json()["error"]
    assert (failed.status_code, error["code"]) == (503, "version_too_old"), error
    assert "peft 0.21.2 is older than the peft 99.1.0 that saved the adapter of model 'newer'" in error["message"]
    assert "peft>=99.1 in `environments: mine: packages:`" in json.dumps(gateway.status("newer")["last_error"])
    states = {name: gateway.status(name)["state"] for name in ("base", "newer")}
    assert states == {"base": "unloaded", "newer": "failed"}, "no worker was started, no weights were read"
    assert gateway.chat("base", "Hello", max_tokens=8)["choices"]


def test_training_checkpoint_without_weights_names_where_they_are(cli: Cli) -> None:
    folder = cli.folder / "out"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    write_adapter(folder / "checkpoint-500", 64)
    write_config(cli, f"version: 1\nmodels:\n  ours: {{model: {demo_model()}, adapter: ./out}}\n")
    done = cli("generate", "ours", "Hello")
    assert done.returncode == 6, done.stderr
    assert "adapter" in done.stderr
    assert "checkpoint-500" in done.stderr


def test_package_that_does_not_exist_is_named(cli: Cli) -> None:
    write_config(
        cli,
        f"""
version: 1
models:
  odd: {{model: {demo_model()}, environment: odd}}
environments:
  odd: {{packages: ["bainmarie-no-such-package-exists==1.0"]}}
""",
    )
    done = cli("generate", "odd", "Hello")
    assert done.returncode == 5, done.stderr
    assert "bainmarie-no-such-package-exists" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_says_by_whom(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("up", "--port", str(port))
    assert done.returncode == 7, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr
    assert "in use" in done.stderr


def test_a_model_that_cannot_load_harms_no_other(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway("version: 1\nmodels:\n  gone: {model: ./nowhere}\n")
    answer = gateway.chat("demo", "Hello", max_tokens=8)
    body = {"model": "gone", "messages": [{"role": "user", "content": "Hello"}]}
    failed = gateway.http.post("/v1/chat/completions", json=body)
    assert failed.status_code == 503
    assert "nowhere" in failed.json()["error"]["message"]
    assert gateway.status("gone")["state"] == "failed"
    assert gateway.chat("demo", "Hello", max_tokens=8)["choices"] == answer["choices"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{not json", 400, None),
        (b'{"messages": []}', 400, "model"),
        (b'{"model": "demo"}', 400, "messages"),
        (b'{"model": "demo", "messages": [{"role": "user", "content": "x"}], "max_tokens": "many"}', 400, "max_tokens"),
        (b'{"model": "nope", "messages": []}', 404, "model"),
    ],
)
def test_bad_requests_have_the_openai_shape(demo_gateway: Gateway, body: bytes, status: int, param: str | None) -> None:
    response = demo_gateway.http.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
