"""Directories that are not fit are told apart before anything is built, each with the line that would be right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bainmarie.catalog import ModelSpec
from bainmarie.environments.checkpoint import check_model_files
from bainmarie.errors import LoadFailed

from .checkpoints import LLAMA, llama_shapes, lora_shapes, make_adapter, make_model, write_safetensors


def refused(model: Path | str, adapter: Path | None = None, engine: str = "transformers") -> LoadFailed:
    with pytest.raises(LoadFailed) as failure:
        check_model_files(spec_of(model, adapter, engine))
    return failure.value


def spec_of(model: Path | str, adapter: Path | None = None, engine: str = "transformers") -> ModelSpec:
    return ModelSpec(name="mine", engine=engine, model=str(model), adapter=str(adapter) if adapter else None)


def test_whole_model_passes(tmp_path: Path) -> None:
    check_model_files(spec_of(make_model(tmp_path / "m")))


def test_missing_directory(tmp_path: Path) -> None:
    error = refused(tmp_path / "absent")
    assert error.code == "model_not_found"
    assert str(tmp_path / "absent") in error.message
    assert "models: mine: model:" in error.hint


def test_no_config_says_what_is_there(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "config.json").unlink()
    error = refused(model)
    assert error.code == "model_incomplete"
    assert "has no config.json; found there: model.safetensors, tokenizer.json" in error.message
    assert "`base:`" in error.hint


def test_a_merge_takes_its_config_from_the_base(tmp_path: Path) -> None:
    base, model = make_model(tmp_path / "base"), make_model(tmp_path / "m")
    (model / "config.json").unlink()
    check_model_files(replace(spec_of(model), base=str(base)))
    (base / "config.json").unlink()
    with pytest.raises(LoadFailed, match=r"has no config\.json, and neither has its base"):
        check_model_files(replace(spec_of(model), base=str(base)))


def test_adapter_given_as_model(tmp_path: Path) -> None:
    error = refused(make_adapter(tmp_path / "a", base_model_name_or_path="/gone/base"))
    assert error.code == "model_incomplete"
    assert "an adapter on /gone/base, which is no directory here" in error.hint
    assert f"`model: BASE` with `adapter: {tmp_path / 'a'}`" in error.hint


def test_training_folder_given_as_model(tmp_path: Path) -> None:
    make_model(tmp_path / "run" / "checkpoint-20")
    assert f"`model: {tmp_path / 'run' / 'checkpoint-20'}`" in refused(tmp_path / "run").hint


def test_training_checkpoint_without_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoint-20"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    assert "training checkpoint" in refused(folder).hint


def test_model_one_folder_deeper(tmp_path: Path) -> None:
    make_model(tmp_path / "outer" / "inner")
    assert f"`model: {tmp_path / 'outer' / 'inner'}`" in refused(tmp_path / "outer").hint


def test_gguf(tmp_path: Path) -> None:
    folder = tmp_path / "g"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(b"GGUF")
    assert "GGUF" in refused(folder).hint
    assert "GGUF" in refused(folder / "m.gguf").message


def test_no_weights(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "model.safetensors").unlink()
    assert "has no weights" in refused(model).message


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    error = refused(model)
    assert error.code == "model_incomplete"
    assert "pickle" in error.message
    assert "can run code" in error.message
    assert "allow_pickle: true" in error.hint
    check_model_files(replace(spec_of(model), allow_pickle=True))


def test_a_missing_pickled_shard_is_named_where_pickles_are_allowed(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    with pytest.raises(LoadFailed, match=r"pytorch_model-1\.bin"):
        check_model_files(replace(spec_of(model), allow_pickle=True))


def test_missing_shard_is_named(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    weight_map = {**dict.fromkeys(llama_shapes(), "model-1.safetensors"), "b": "model-2.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    error = refused(model)
    assert "1 of 2 weight files" in error.message
    assert "model-2.safetensors" in error.message
    write_safetensors(model / "model-2.safetensors", {"b": (2, 2)})
    check_model_files(spec_of(model))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "Git LFS pointer"),
        (b"", "cut short"),
        (b"<html>not found</html>", "no safetensors file"),
        (b"\x10\0\0\0\0\0\0\0{", "cut short"),
    ],
)
def test_weights_that_are_something_else(tmp_path: Path, content: bytes, what: str) -> None:
    model = make_model(tmp_path / "m")
    (model / "model.safetensors").write_bytes(content)
    error = refused(model)
    assert error.code == "model_incomplete"
    assert what in error.message


def test_weights_cut_short(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-10])
    assert f"cut short: {len(whole) - 10} of {len(whole)} bytes" in refused(model).message


def test_broken_config(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "config.json").write_text("{")
    assert "not valid JSON" in refused(model).message


def test_hub_ids_and_other_engines_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    check_model_files(spec_of("org/absent"))
    check_model_files(spec_of(tmp_path / "absent", engine="fake"))


def test_fitting_adapter_passes(tmp_path: Path) -> None:
    check_model_files(spec_of(make_model(tmp_path / "m"), make_adapter(tmp_path / "a")))


def test_adapter_of_another_width(tmp_path: Path) -> None:
    error = refused(make_model(tmp_path / "m"), make_adapter(tmp_path / "a", lora_shapes(hidden=12)))
    assert error.code == "adapter_mismatch"
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight has the shape [4, 12]" in error.message
    assert "has [8, 8]" in error.message
    assert "org/base" in error.hint


def test_adapter_with_more_layers_than_the_base(tmp_path: Path) -> None:
    error = refused(make_model(tmp_path / "m"), make_adapter(tmp_path / "a", lora_shapes(layers=3)))
    assert error.code == "adapter_mismatch"
    assert "no module layers.2.self_attn.q_proj" in error.message


def test_adapter_for_modules_that_the_base_lacks(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", lora_shapes(target="attn.c_attn"))
    assert "no module layers.0.attn.c_attn" in refused(make_model(tmp_path / "m"), adapter).message


def head_shapes(hidden: int = 8) -> dict[str, tuple[int, ...]]:
    name = "base_model.model.lm_head"
    return {f"{name}.lora_A.weight": (4, hidden), f"{name}.lora_B.weight": (16, 4)}


def test_adapter_on_an_output_layer_that_is_tied_to_the_embeddings(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    check_model_files(spec_of(model, make_adapter(tmp_path / "a", head_shapes())))
    error = refused(model, make_adapter(tmp_path / "b", head_shapes(hidden=12)))
    assert "lm_head.weight of the base has [16, 8]" in error.message
    turned = make_model(tmp_path / "gpt2", {"model_type": "gpt2"}, {"wte.weight": (16, 8)})
    check_model_files(spec_of(turned, tmp_path / "a"))


def test_half_an_adapter(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in lora_shapes().items() if "lora_B" not in name}
    error = refused(make_model(tmp_path / "m"), make_adapter(tmp_path / "a", shapes))
    assert error.code == "adapter_incomplete"
    assert "lacks 2 tensors, such as base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight" in error.message


def test_adapter_with_other_outer_names_passes(tmp_path: Path) -> None:
    shapes = {f"language_model.{name}": shape for name, shape in llama_shapes().items()}
    check_model_files(spec_of(make_model(tmp_path / "m", shapes=shapes), make_adapter(tmp_path / "a")))


def test_rectangular_and_turned_weights(tmp_path: Path) -> None:
    shapes = {
        "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight": (4, 16),
        "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight": (8, 4),
    }
    adapter = make_adapter(tmp_path / "a", shapes)
    check_model_files(spec_of(make_model(tmp_path / "m"), adapter))
    turned = {"h.0.mlp.c_fc.weight": (8, 16)}
    gpt2 = make_model(tmp_path / "gpt2", {"model_type": "gpt2"}, turned)
    shapes = {
        "base_model.model.transformer.h.0.mlp.c_fc.lora_A.weight": (4, 8),
        "base_model.model.transformer.h.0.mlp.c_fc.lora_B.weight": (16, 4),
    }
    check_model_files(spec_of(gpt2, make_adapter(tmp_path / "b", shapes)))


def test_bases_quantized_on_disk_are_not_compared(tmp_path: Path) -> None:
    config = {**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"}}
    packed = dict.fromkeys(llama_shapes(), (64, 1))
    check_model_files(spec_of(make_model(tmp_path / "m", config, packed), make_adapter(tmp_path / "a")))


def test_adapter_directory_that_is_not_there(tmp_path: Path) -> None:
    error = refused(make_model(tmp_path / "m"), tmp_path / "absent")
    assert error.code == "adapter_incomplete"
    assert "models: mine: adapter:" in error.hint


def test_whole_model_given_as_adapter(tmp_path: Path) -> None:
    error = refused(make_model(tmp_path / "m"), make_model(tmp_path / "merged"))
    assert "has no adapter_config.json" in error.message
    assert f"`model: {tmp_path / 'merged'}` without `adapter:`" in error.hint


def test_adapter_without_weights_names_the_checkpoints_that_have_them(tmp_path: Path) -> None:
    run = make_adapter(tmp_path / "run")
    (run / "adapter_model.safetensors").unlink()
    for number in (5, 10, 100):
        make_adapter(run / f"checkpoint-{number}")
    error = refused(make_model(tmp_path / "m"), run)
    assert error.code == "adapter_incomplete"
    assert "no adapter_model.safetensors" in error.message
    assert f"Use `adapter: {run / 'checkpoint-100'}`" in error.hint
    assert "checkpoint-5, checkpoint-10" in error.hint


def test_training_checkpoint_whose_adapter_lies_in_its_parent(tmp_path: Path) -> None:
    run = make_adapter(tmp_path / "run")
    checkpoint = make_adapter(run / "checkpoint-7")
    (checkpoint / "adapter_model.safetensors").unlink()
    (checkpoint / "trainer_state.json").write_text("{}")
    check_model_files(spec_of(make_model(tmp_path / "m"), checkpoint))
    (run / "adapter_model.safetensors").unlink()
    error = refused(tmp_path / "m", checkpoint)
    assert "training checkpoint without weights" in error.message
    assert "there is no adapter_model.safetensors" in error.message


def test_pickled_adapter_is_refused(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    error = refused(make_model(tmp_path / "m"), adapter)
    assert error.code == "adapter_incomplete"
    assert "pickle" in error.message
    assert "allow_pickle: true" in error.hint
    check_model_files(replace(spec_of(tmp_path / "m", adapter), allow_pickle=True))


def test_a_tensor_of_the_index_that_its_file_lacks(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    placed = dict.fromkeys(llama_shapes(), "model.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    check_model_files(spec_of(model))
    index.write_text(json.dumps({"weight_map": {**placed, "lm_head.weight": "model.safetensors"}}))
    error = refused(model)
    assert error.code == "model_incomplete"
    assert "lacks 1 of the tensors" in error.message
    assert "lm_head.weight" in error.message
