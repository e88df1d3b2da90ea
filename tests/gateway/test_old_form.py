"""Files of the old form become ours; what is left is listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bainmarie.errors import ConfigurationError
from bainmarie.settings.load import parse_settings
from bainmarie.settings.old_form import import_old

OLD = r"""
# kept by hand
defaults: {timeout: 60}
models:
  coder:
    base_model: Qwen/Qwen2.5-Coder-14B-Instruct
    adapter_dir: ./out/coder
    model_type: instruct
    port: 8001
    use_4bit: true
    system_prompt: "You are brief."
  plain:
    base_model: "C:\models\new\base 7b"
    adapter_dir: null
    model_type: base
    use_4bit: false
    temperature: 0.3
  "two words":
    base_model: 'D:\x\y'
    adapter_dir: out\story
"""


def test_everything_is_carried_over_or_listed(tmp_path: Path) -> None:
    (tmp_path / "out" / "coder").mkdir(parents=True)
    file = tmp_path / "llm_backends.yaml"
    file.write_text(OLD)
    imported = import_old(file, tmp_path / "bain.yaml")
    models = parse_settings(imported.text, tmp_path / "bain.yaml").models
    coder = models["coder"]
    assert (coder.model, coder.adapter) == ("Qwen/Qwen2.5-Coder-14B-Instruct", str(tmp_path / "out" / "coder"))
    assert (coder.quantization, coder.prompt, coder.system_prompt) == ("nf4", "chat", "You are brief.")
    assert (models["plain"].quantization, models["plain"].prompt) == ("none", "plain")
    assert models["two-words"].adapter == str(tmp_path / "out" / "story")
    assert "adapter: ./out/coder" in imported.text
    listed = "\n".join(imported.left)
    assert r"plain.base_model: C:\models\new\base 7b is a Windows path" in listed
    for line in (
        "coder.port: not needed",
        "plain.temperature: 0.3 was not carried over",
        "two words: is now named two-words",
        "story is not on this machine",
        "defaults: not carried over",
    ):
        assert line in listed
    assert len(imported.left) == 7


def test_paths_follow_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "old" / "base").mkdir(parents=True)
    file = tmp_path / "old" / "x.yaml"
    file.write_text("models: {a: {base_model: base}}\n")
    new = tmp_path / "new"
    assert f"model: {tmp_path / 'old' / 'base'}" in import_old(file, new / "bain.yaml").text
    assert "model: ./base" in import_old(file, tmp_path / "old" / "bain.yaml").text


@pytest.mark.parametrize("text", ["", "models: []\n", "models: {a: 1}\n", "- a\n", "a: [\n"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"x\.yaml"):
        import_old(file, tmp_path / "bain.yaml")
