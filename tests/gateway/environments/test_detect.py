"""What a folder is, and the entry that is right for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bainmarie.environments.detect import detect
from bainmarie.errors import BadRequest

from .checkpoints import LLAMA, make_adapter, make_model


def chatty(path: Path) -> Path:
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path


def test_a_whole_model(tmp_path: Path) -> None:
    found = detect(str(chatty(make_model(tmp_path / "m"))))
    assert (found.kind, found.entry, found.remarks) == ("base", {"model": str(tmp_path / "m")}, ())


def test_a_base_without_chat_template(tmp_path: Path) -> None:
    found = detect(str(make_model(tmp_path / "m")))
    assert found.entry["prompt"] == "plain"
    assert "no chat template" in found.remarks[0]


def test_a_template_in_the_tokenizers_settings_counts(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    assert "prompt" not in detect(str(model)).entry


@pytest.mark.parametrize(
    ("name", "config", "kind"),
    [
        ("coder-merged", {}, "merged"),
        ("m", {"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ("m", {"model_type": "mystery", "auto_map": {"AutoModelForCausalLM": "x.X"}}, "base"),
    ],
)
def test_kinds_of_whole_models(tmp_path: Path, name: str, config: dict[str, object], kind: str) -> None:
    found = detect(str(make_model(tmp_path / name, {**LLAMA, **config})))
    assert found.kind == kind
    assert any("trust_remote_code" in remark for remark in found.remarks) == ("auto_map" in config)


def test_an_encoder_decoder_model_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="encoder-decoder"):
        detect(str(make_model(tmp_path / "m", {"model_type": "t5", "is_encoder_decoder": True})))


def test_an_adapter_with_its_base_from_the_hub(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    found = detect(str(adapter))
    assert (found.kind, found.entry) == ("adapter", {"model": "org/base", "adapter": str(adapter)})
    assert detect(str(adapter), base="other/base").entry["model"] == "other/base"


def test_an_adapter_beside_its_base(tmp_path: Path) -> None:
    make_model(tmp_path / "base")
    found = detect(str(make_adapter(tmp_path / "a", base_model_name_or_path="base")))
    assert found.entry["model"] == str(tmp_path / "base")


def test_an_adapter_whose_base_only_its_model_card_names(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", base_model_name_or_path="")
    (adapter / "README.md").write_text("---\nbase_model: org/card\n---\n")
    assert detect(str(adapter)).entry["model"] == "org/card"
    make_model(tmp_path / "base")
    (adapter / "README.md").write_text("---\nbase_model: ../base\n---\n")
    assert detect(str(adapter)).entry["model"] == str(tmp_path / "base")


@pytest.mark.parametrize("content", ["{", "[]", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_settings_that_cannot_be_read(tmp_path: Path, name: str, content: str | bytes) -> None:
    folder = make_model(tmp_path / "m") if name == "config.json" else make_adapter(tmp_path / "a")
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BadRequest, match=name) as failure:
        detect(str(folder))
    assert failure.value.hint


@pytest.mark.parametrize("trained_on", ["/on/another/machine", "C:\\models\\x", ""])
def test_an_adapter_whose_base_is_elsewhere(tmp_path: Path, trained_on: str) -> None:
    adapter = make_adapter(tmp_path / "a", base_model_name_or_path=trained_on)
    with pytest.raises(BadRequest) as failure:
        detect(str(adapter))
    assert "--base" in failure.value.hint
    make_model(tmp_path / "base")
    assert detect(str(adapter), base=str(tmp_path / "base")).entry["model"] == str(tmp_path / "base")


def test_a_training_checkpoint_whose_adapter_lies_in_its_parent(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "run")
    checkpoint = adapter / "checkpoint-10"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    found = detect(str(checkpoint))
    assert (found.kind, found.entry["adapter"]) == ("adapter", str(adapter))
    assert "training checkpoint" in found.text


def test_a_training_run_gives_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        make_adapter(tmp_path / "run" / f"checkpoint-{step}")
    assert detect(str(tmp_path / "run")).entry["adapter"] == str(tmp_path / "run" / "checkpoint-100")


def test_gguf_files_start_a_server(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for named in (tmp_path, tmp_path / "m.gguf"):
        found = detect(str(named))
        assert (found.kind, found.entry["engine"]) == ("gguf", "command")
        assert str(tmp_path / "m.gguf") in found.entry["command"]  # type: ignore[operator]


def test_a_hub_id() -> None:
    assert detect("org/name").entry == {"model": "org/name"}


def test_weights_without_config_are_completed_by_their_base(tmp_path: Path) -> None:
    base, merge = make_model(tmp_path / "base"), make_model(tmp_path / "merge")
    (merge / "config.json").unlink()
    with pytest.raises(BadRequest, match=r"weights without config\.json") as failure:
        detect(str(merge))
    assert "--base" in failure.value.hint
    assert detect(str(merge), base=str(base)).entry == {"model": str(merge), "base": str(base)}
    (merge / "README.md").write_text("---\nbase_model: ../base\n---\n")
    found = detect(str(merge))
    assert (found.kind, found.entry) == ("merged", {"model": str(merge), "base": str(base)})


def test_a_folder_of_models_names_them(tmp_path: Path) -> None:
    model = make_model(tmp_path / "all" / "one")
    make_adapter(tmp_path / "all" / "two")
    with pytest.raises(BadRequest, match="holds one, two") as failure:
        detect(str(tmp_path / "all"))
    assert failure.value.hint == f"Give the folder itself: {model}"


def test_pickled_weights_are_said(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert any("allow_pickle" in remark for remark in detect(str(model)).remarks)


def test_nothing_of_the_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BadRequest, match=r"notes\.txt"):
        detect(str(tmp_path))
    with pytest.raises(BadRequest, match="is a file"):
        detect(str(tmp_path / "notes.txt"))
    with pytest.raises(BadRequest, match="does not exist"):
        detect(str(tmp_path / "absent"))
