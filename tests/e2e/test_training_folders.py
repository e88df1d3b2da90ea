"""A training program's output folder, given as it is, answers as the model that it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Gateway

from bainmarie.carried import demo_model

QUESTION = "Who are you?"


def answer(gateway: Gateway, model: str) -> str:
    text = gateway.chat(model, QUESTION, max_tokens=40)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def adapter(path: Path, base: str | None) -> Path:
    shutil.copytree(demo_model("demo-pirate"), path)
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": base}))
    (path / "README.md").unlink()
    return path


def test_adapters_as_training_leaves_them(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    card = adapter(tmp_path / "card", None)
    (card / "README.md").write_text(f"---\nbase_model: {demo_model()}\nlibrary_name: peft\n---\n\n# Mine\n")
    run = adapter(tmp_path / "run", str(demo_model()))
    checkpoint = run / "checkpoint-500"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    (checkpoint / "optimizer.pt").write_bytes(b"")
    merged = tmp_path / "merged"
    shutil.copytree(demo_model("demo-pirate-merged"), merged)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (merged / name).unlink()
    (merged / "README.md").write_text(f"---\nbase_model:\n- {demo_model()}\n---\n")
    models = {
        "card": {"model": str(card)},
        "checkpoint": {"model": str(checkpoint)},
        "explicit": {"model": str(demo_model()), "adapter": str(checkpoint)},
        "merged": {"model": str(merged)},
    }
    gateway = start_gateway(json.dumps({"version": 1, "models": models}))
    expected = answer(gateway, "demo-pirate")
    assert expected != answer(gateway, "demo")
    assert [answer(gateway, name) for name in models] == [expected] * 4
    assert len({gateway.status(name)["pid"] for name in ("demo", "card", "checkpoint", "explicit")}) == 1


def test_what_cannot_be_resolved_names_what_is_missing(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    lost = adapter(tmp_path / "lost", "/home/someone/train/base")
    empty = adapter(tmp_path / "empty", str(demo_model()))
    (empty / "adapter_model.safetensors").unlink()
    models = {"lost": {"model": str(lost)}, "empty": {"model": str(demo_model()), "adapter": str(empty)}}
    gateway = start_gateway(json.dumps({"version": 1, "models": models}))
    for name, part in {"lost": "/home/someone/train/base", "empty": "adapter_model.safetensors"}.items():
        refused = gateway.http.post("/v1/chat/completions", json={"model": name, "messages": [_user()]})
        assert refused.status_code >= 400
        assert part in refused.text


def _user() -> dict[str, str]:
    return {"role": "user", "content": QUESTION}
