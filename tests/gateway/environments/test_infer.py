"""From a model's files to packages with reasons."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bainmarie.catalog import ModelSpec
from bainmarie.environments.infer import BITSANDBYTES, PEFT, TORCH, TRANSFORMERS, engine_needs, infer
from bainmarie.environments.spec import EnvironmentSpec

from .checkpoints import LLAMA, make_adapter, make_model
from .shapes import ALL, Shape

CORE = {f"torch=={TORCH}", f"transformers=={TRANSFORMERS}", "safetensors>=0.4.3"}


def names(packages: tuple[str, ...]) -> set[str]:
    return {re.split(r"[\[=<>]", package)[0].replace("_", "-") for package in packages}


def why(spec: EnvironmentSpec) -> dict[str, str]:
    return {reason.requirement: reason.why for reason in spec.reasons}


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)
def test_shapes_of_real_models(tmp_path: Path, shape: Shape) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(shape.config))
    for file in shape.files:
        (model / file).write_bytes(b"")
    if shape.code:
        (model / "modeling_x.py").write_text(shape.code)
    options = {"trust_remote_code": bool(shape.code), **shape.options}
    spec = infer([ModelSpec("m", model=str(model), **options)])
    wanted = shape.transformers or f"transformers=={TRANSFORMERS}"
    assert [package for package in spec.packages if package.startswith("transformers")] == [wanted]
    assert names(spec.packages) - names(tuple(CORE)) == set(shape.expected.split())
    assert shape.since in why(spec)[wanted]
    remarks = [reason.why for reason in spec.reasons if not reason.requirement]
    assert any(shape.remark in remark for remark in remarks) if shape.remark else remarks == []
    assert all((model / reason.source).exists() for reason in spec.reasons if reason.source.endswith((".json", ".py")))


def test_there_are_enough_shapes() -> None:
    assert len(ALL) >= 60
    assert len({shape.name for shape in ALL}) == len(ALL)


def test_unknown_architecture_gets_the_newest_and_says_so(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", {**LLAMA, "model_type": "nobody_knows"})
    reason = why(infer([ModelSpec("m", model=str(model))]))[f"transformers>={TRANSFORMERS}"]
    assert "nobody_knows" in reason
    assert "the newest there is" in reason


def test_plain_model(tmp_path: Path) -> None:
    spec = infer([ModelSpec("m", model=str(make_model(tmp_path / "m")))])
    assert set(spec.packages) == CORE
    assert spec.name == "auto"
    assert spec.needs == engine_needs("transformers") == ("torch", "transformers")
    assert [reason.requirement for reason in spec.reasons] == list(spec.packages)
    assert all(reason.why and reason.source for reason in spec.reasons)
    assert "model_type llama" in why(spec)[f"transformers=={TRANSFORMERS}"]


def test_same_files_give_the_same_spec(tmp_path: Path) -> None:
    model = str(make_model(tmp_path / "m"))
    assert infer([ModelSpec("a", model=model)]) == infer([ModelSpec("b", model=model)])


def test_adapters_bring_peft_once(tmp_path: Path) -> None:
    model = str(make_model(tmp_path / "m"))
    adapters = [
        ModelSpec(f"a{n}", model=model, adapter=str(make_adapter(tmp_path / f"a{n}", peft_version="0.17.2.dev0")))
        for n in range(2)
    ]
    spec = infer([ModelSpec("m", model=model), *adapters])
    assert set(spec.packages) - CORE == {f"peft=={PEFT}", *(p for p in spec.packages if p.startswith("accelerate"))}


def test_adapter_saved_by_a_newer_peft(tmp_path: Path) -> None:
    model = str(make_model(tmp_path / "m"))
    adapter = str(make_adapter(tmp_path / "a", peft_version="9.1.0"))
    assert "peft>=9.1.0" in infer([ModelSpec("a", model=model, adapter=adapter)]).packages


@pytest.mark.parametrize("version", ["9.1.0.dev0", "9.1.0.dev0@c0ffee12", "9.1.0rc1"])
def test_adapter_saved_by_a_peft_that_may_not_be_out_yet(tmp_path: Path, version: str) -> None:
    """`peft>=9.1.0` would leave the base without an environment too."""
    model = str(make_model(tmp_path / "m"))
    early = ModelSpec("early", model=model, adapter=str(make_adapter(tmp_path / "a", peft_version=version)))
    spec = infer([ModelSpec("m", model=model), early])
    assert f"peft>={PEFT}" in spec.packages
    assert f"saved with peft {version}, which may not be out yet: the newest there is" in why(spec)[f"peft>={PEFT}"]
    late = replace(early, name="late", adapter=str(make_adapter(tmp_path / "b", peft_version="8.0.1")))
    assert "peft>=8.0.1" in infer([ModelSpec("m", model=model), early, late]).packages, "that one is out"


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4"])
def test_quantization_brings_bitsandbytes(tmp_path: Path, quantization: str) -> None:
    spec = infer([ModelSpec("m", model=str(make_model(tmp_path / "m")), quantization=quantization)])
    assert f"bitsandbytes=={BITSANDBYTES}" in spec.packages
    assert quantization in why(spec)[f"bitsandbytes=={BITSANDBYTES}"]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"bitsandbytes", "accelerate"}),
        ({"load_in_8bit": True}, {"bitsandbytes", "accelerate"}),
        ({"quant_method": "gptq", "bits": 4}, {"gptqmodel", "optimum", "accelerate"}),
        ({"quant_method": "awq"}, {"gptqmodel", "accelerate"}),
        ({"quant_method": "compressed-tensors"}, {"compressed-tensors", "accelerate"}),
        ({"quant_method": "never-heard-of"}, {"accelerate"}),
    ],
)
def test_checkpoint_quantized_on_disk(tmp_path: Path, stored: dict[str, object], expected: set[str]) -> None:
    model = make_model(tmp_path / "m", {**LLAMA, "quantization_config": stored})
    assert names(infer([ModelSpec("m", model=str(model))]).packages) - names(tuple(CORE)) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("tokenizer.model", {"sentencepiece", "protobuf"}),
        ("tekken.json", {"mistral-common", "tiktoken"}),
        ("qwen.tiktoken", {"tiktoken"}),
    ],
)
def test_tokenizer_files_count_without_tokenizer_json(tmp_path: Path, file: str, expected: set[str]) -> None:
    model = make_model(tmp_path / "m")
    (model / file).write_bytes(b"")
    assert set(infer([ModelSpec("m", model=str(model))]).packages) == CORE
    (model / "tokenizer.json").unlink()
    spec = infer([ModelSpec("m", model=str(model))])
    assert names(spec.packages) - names(tuple(CORE)) == expected
    assert {reason.source for reason in spec.reasons if names((reason.requirement,)) <= expected} == {file}


def test_config_of_a_newer_transformers(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", {**LLAMA, "transformers_version": "99.1.0"})
    assert "transformers>=99.1.0" in infer([ModelSpec("m", model=str(model))]).packages


def test_config_of_a_transformers_that_may_not_be_out_yet(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", {**LLAMA, "transformers_version": "99.1.0.dev0"})
    spec = infer([ModelSpec("m", model=str(model))])
    assert "may not be out yet: the newest there is" in why(spec)[f"transformers>={TRANSFORMERS}"]


def test_remote_code_counts_only_where_it_may_run(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", {**LLAMA, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}})
    (model / "modeling_x.py").write_text("import torch\nfrom einops import rearrange\nimport open_clip\n")
    assert set(infer([ModelSpec("m", model=str(model))]).packages) == CORE
    spec = infer([ModelSpec("m", model=str(model), trust_remote_code=True)])
    assert names(spec.packages) - names(tuple(CORE)) == {"einops", "open-clip-torch"}


def test_fake_engine_needs_no_packages() -> None:
    spec = infer([ModelSpec("f", engine="fake", model="anything")])
    assert (spec.packages, spec.needs) == ((), ())


def test_hub_id_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    repository = tmp_path / "hub" / "models--org--name"
    make_model(repository / "snapshots" / "abc", {**LLAMA, "quantization_config": {"quant_method": "gptq"}})
    make_model(repository / "snapshots" / "old")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert "gptqmodel>=5" in infer([ModelSpec("m", model="org/name")]).packages


def test_hub_id_not_in_the_cache_is_a_guess_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    spec = infer([ModelSpec("m", model="org/absent")])
    assert set(spec.packages) == CORE
    assert "not in the cache" in why(spec)[f"transformers=={TRANSFORMERS}"]


def test_broken_files_are_not_its_error(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "config.json").write_text(json.dumps([]))
    assert set(infer([ModelSpec("m", model=str(model))]).packages) == CORE
