"""What goes wrong while loading, and what it is called."""

from __future__ import annotations

import json
import shutil

import pytest

from bainmarie_protocol import WorkerConfig
from bainmarie_worker.errors import LoadError
from bainmarie_worker.loading import load

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves


def fails(model, **fields):
    with pytest.raises(LoadError) as raised:
        load(WorkerConfig("m", "transformers", str(model), (), **{"device": "cpu", **fields}), lambda step: None)
    assert raised.value.message
    assert "\n" not in raised.value.message
    return raised.value


@pytest.fixture
def copy(family, tmp_path):
    shutil.copytree(family.base, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_directory_that_is_not_there(tmp_path):
    assert fails(tmp_path / "none").code == "model_not_found"


def test_a_hub_id_that_cannot_be_had(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    error = fails("someone/some-model")
    assert error.code == "model_not_found"
    assert "someone/some-model" in error.message


def test_an_adapter_given_as_a_model(family):
    error = fails(family.adapter)
    assert error.code == "model_incomplete"
    assert "adapter:" in error.hint


def test_no_weights_at_all(copy):
    (copy / "model.safetensors").unlink()
    error = fails(copy)
    assert error.code == "model_incomplete"
    assert "model.safetensors" in error.message


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert fails(copy).code == "pickled_weights"


def test_a_missing_shard_is_named(copy):
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    error = fails(copy)
    assert error.code == "model_incomplete"
    assert "model-00002-of-00002.safetensors" in error.message


def test_a_cut_file_is_told_by_its_size(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    error = fails(copy)
    assert error.code == "model_incomplete"
    assert "is cut" in error.message


def test_an_architecture_that_this_version_does_not_know(copy):
    import transformers

    rewrite(copy / "config.json", model_type="llama99")
    error = fails(copy)
    assert error.code == "architecture_unknown"
    assert "llama99" in error.message
    assert transformers.__version__ in error.message


def test_code_of_the_models_own_needs_consent(copy):
    rewrite(copy / "config.json", model_type="llama99", auto_map={"AutoConfig": "configuration.Own"})
    error = fails(copy)
    assert error.code == "remote_code"
    assert "trust_remote_code: true" in error.hint


def test_a_device_that_is_not_there_is_never_replaced(family):
    assert fails(family.base, device="cuda:99").code == "device_unavailable"
    assert fails(family.base, device="toaster").code == "device_unavailable"


def test_tensors_that_are_missing_are_not_made_up(copy):
    rewrite(copy / "config.json", num_hidden_layers=3)
    error = fails(copy)
    assert error.code == "model_incomplete"
    assert "layers.2" in error.message


def test_more_context_than_the_model_has(family):
    assert "512" in fails(family.base, context=4096).message


def test_a_second_quantization_is_refused(copy):
    rewrite(copy / "config.json", quantization_config={"quant_method": "gptq"})
    assert fails(copy, quantization="nf4").code in ("quantization", "package_missing")


def test_it_loads_in_the_checkpoints_own_dtype_and_reports_every_byte(family):
    steps = []
    loaded = load(WorkerConfig("m", "transformers", str(family.base), (), device="cpu"), steps.append)
    assert str(loaded.model.dtype) == "torch.float32"
    assert [s.stage for s in steps if s.stage != "weights"] == ["imports", "config"]
    size = (family.base / "model.safetensors").stat().st_size
    weights = [s for s in steps if s.stage == "weights"]
    assert (weights[0].current, weights[0].total) == (0, size)
    assert (weights[-1].current, weights[-1].total, weights[-1].unit) == (size, size, "bytes")


def test_another_dtype_is_taken_on_wish(family):
    config = WorkerConfig("m", "transformers", str(family.base), (), device="cpu", dtype="bfloat16")
    assert str(load(config, lambda step: None).model.dtype) == "torch.bfloat16"
