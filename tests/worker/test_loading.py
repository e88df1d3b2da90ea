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


def pickle_weights(directory, name="pytorch_model.bin"):
    import torch
    from safetensors.torch import load_file

    weights = directory / "model.safetensors"
    torch.save(load_file(weights), directory / name)
    weights.unlink()


def test_pickled_weights_load_where_they_are_allowed(copy, family):
    import torch

    pickle_weights(copy)
    assert "allow_pickle: true" in fails(copy).hint
    loaded = load(WorkerConfig("m", "transformers", str(copy), (), device="cpu", allow_pickle=True), lambda step: None)
    safe = load(WorkerConfig("m", "transformers", str(family.base), (), device="cpu"), lambda step: None)
    prompt = torch.arange(3, 40).unsqueeze(0)
    torch.testing.assert_close(loaded.model(prompt).logits, safe.model(prompt).logits)


def test_pickled_shards_and_the_one_that_is_missing(copy):
    from safetensors.torch import load_file

    names = list(load_file(copy / "model.safetensors"))
    pickle_weights(copy, "pytorch_model-00001-of-00002.bin")
    weight_map = dict.fromkeys(names, "pytorch_model-00001-of-00002.bin")
    index = copy / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    assert load(WorkerConfig("m", "transformers", str(copy), (), device="cpu", allow_pickle=True), lambda step: None)
    index.write_text(json.dumps({"weight_map": {**weight_map, "x": "pytorch_model-00002-of-00002.bin"}}))
    error = fails(copy, allow_pickle=True)
    assert error.code == "model_incomplete"
    assert "pytorch_model-00002-of-00002.bin" in error.message


def test_a_pickle_that_runs_code_is_refused_where_pickles_are_allowed(copy, tmp_path):
    import os

    import torch

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (copy / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Trap()}, copy / "pytorch_model.bin")
    error = fails(copy, allow_pickle=True)
    assert error.code == "pickled_weights"
    assert not (tmp_path / "sprung").exists()


def test_safe_weights_win_where_both_are_there(copy):
    (copy / "pytorch_model.bin").write_bytes(b"never read")
    assert load(WorkerConfig("m", "transformers", str(copy), (), device="cpu", allow_pickle=True), lambda step: None)


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


OWN_PART = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own-part"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
OWN_WHOLE = """
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from .part import OwnConfig

class WholeConfig(PretrainedConfig):
    model_type = "own-whole"

    def __init__(self, text_config=None, **settings):
        self.text_config = OwnConfig(**(text_config or {}))
        super().__init__(**settings)

class WholeModel(PreTrainedModel, GenerationMixin):
    config_class = WholeConfig

    def __init__(self, config):
        super().__init__(config)
        self.inner = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def forward(self, input_ids, **options):
        return self.inner(input_ids, **options)

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()
"""


@pytest.fixture
def own_code(copy):
    """A model of own code whose inner part is of own code too, made by `from_config` as such models do."""
    from safetensors.torch import load_file, save_file

    (copy / "part.py").write_text(OWN_PART)
    (copy / "whole.py").write_text(OWN_WHOLE)
    inner = json.loads((copy / "config.json").read_text())
    inner |= {
        "model_type": "own-part",
        "auto_map": {"AutoConfig": "part.OwnConfig", "AutoModelForCausalLM": "part.OwnModel"},
    }
    outer = {"AutoConfig": "whole.WholeConfig", "AutoModelForCausalLM": "whole.WholeModel"}
    (copy / "config.json").write_text(
        json.dumps({"model_type": "own-whole", "dtype": "float32", "auto_map": outer, "text_config": inner})
    )
    weights = load_file(copy / "model.safetensors")
    save_file({f"inner.{name}": value for name, value in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    return copy


def test_own_code_runs_with_consent_and_so_does_that_of_its_parts(own_code, family):
    import torch

    assert fails(own_code).code == "remote_code"
    config = WorkerConfig("m", "transformers", str(own_code), (), device="cpu", trust_remote_code=True)
    loaded = load(config, lambda step: None)
    assert type(loaded.model.inner).__name__ == "OwnModel"
    plain = load(WorkerConfig("m", "transformers", str(family.base), (), device="cpu"), lambda step: None)
    prompt = torch.arange(3, 40).unsqueeze(0)
    torch.testing.assert_close(loaded.model(prompt).logits, plain.model(prompt).logits)


def test_code_of_a_part_needs_consent(copy):
    rewrite(
        copy / "config.json", model_type="llava", text_config={"model_type": "own", "auto_map": {"AutoConfig": "a.B"}}
    )
    error = fails(copy)
    assert error.code == "remote_code"
    assert "text_config" in error.message


def test_several_devices_are_never_one_silently(family):
    error = fails(family.base, device="auto", device_map="balanced") if not has_accelerator() else None
    if error is None:
        pytest.skip("this machine has an accelerator")
    assert error.code == "device_unavailable"
    assert "device_map: balanced" in error.message


def has_accelerator():
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def test_config_of_the_base_where_a_merge_has_none(copy, family, tmp_path):
    import torch

    (copy / "config.json").unlink()
    (copy / "generation_config.json").unlink(missing_ok=True)
    assert "config.json is missing" in fails(copy).message
    assert str(tmp_path) in fails(copy, base=str(tmp_path)).message
    config = WorkerConfig("m", "transformers", str(copy), (), device="cpu", base=str(family.base))
    loaded, whole = (
        load(config, print),
        load(WorkerConfig("m", "transformers", str(family.base), (), device="cpu"), print),
    )
    prompt = torch.arange(3, 40).unsqueeze(0)
    torch.testing.assert_close(loaded.model(prompt).logits, whole.model(prompt).logits)
    assert loaded.end_ids == whole.end_ids
    assert loaded.info["path"] == str(copy)


def test_a_device_that_is_not_there_is_never_replaced(family):
    assert fails(family.base, device="cuda:99").code == "device_unavailable"
    assert fails(family.base, device="toaster").code == "device_unavailable"


def test_tensors_that_are_missing_are_not_made_up(copy):
    rewrite(copy / "config.json", num_hidden_layers=3)
    error = fails(copy)
    assert error.code == "model_incomplete"
    assert "layers.2" in error.message


def test_tensors_of_other_sizes_are_named_with_both(copy):
    rewrite(copy / "config.json", intermediate_size=112)
    error = fails(copy)
    assert error.code == "model_incomplete"
    assert "down_proj.weight is [64, 96] and should be [64, 112], and 5 more" in error.message


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoder_models_are_not_served(copy, kind):
    rewrite(copy / "config.json", model_type=kind, is_encoder_decoder=True)
    error = fails(copy)
    assert error.code == "architecture_unknown"
    assert "encoder-decoder" in error.message


def test_more_context_than_the_model_has(family):
    assert "512" in fails(family.base, context=4096).message


@pytest.mark.parametrize(
    ("rope", "own", "most"),
    [
        ({"rope_type": "default"}, 512, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 384}, 1536, 1536),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512, 512),
        ({"rope_type": "linear", "factor": 4.0}, 512, 2048),
        ({"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 512}, 2048, 2048),
    ],
)
def test_scaled_positions_make_the_context_longer(make_llama, rope, own, most):
    from bainmarie_worker.model_settings import context_of

    settings = make_llama(rope_parameters={"rope_theta": 10000.0, **rope}).config
    assert context_of(WorkerConfig("m", "transformers", "here", ()), settings) == own
    assert context_of(WorkerConfig("m", "transformers", "here", (), context=most), settings) == most
    with pytest.raises(LoadError, match=str(most)):
        context_of(WorkerConfig("m", "transformers", "here", (), context=most + 1), settings)


def test_it_loads_in_the_checkpoints_own_dtype_and_reports_every_byte(family):
    steps = []
    loaded = load(WorkerConfig("m", "transformers", str(family.base), (), device="cpu"), steps.append)
    assert str(loaded.model.dtype) == "torch.float32"
    assert [s.stage for s in steps if s.stage != "weights"] == ["imports", "config"]
    size = (family.base / "model.safetensors").stat().st_size
    weights = [s for s in steps if s.stage == "weights"]
    assert (weights[0].current, weights[0].total) == (0, size)
    assert (weights[-1].current, weights[-1].total, weights[-1].unit) == (size, size, "bytes")
    assert {(s.total, s.unit) for s in weights} == {(size, "bytes")}
    counts = [s.current for s in weights]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5, "the way between is told too"


def test_a_sharded_checkpoint_loads_and_counts_its_files(family, tmp_path, make_llama):
    import torch

    shutil.copytree(family.base, tmp_path / "sharded", ignore=shutil.ignore_patterns("*.safetensors"))
    make_llama().save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    shards = list((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 2
    steps = []
    loaded = load(WorkerConfig("m", "transformers", str(tmp_path / "sharded"), (), device="cpu"), steps.append)
    whole = load(WorkerConfig("m", "transformers", str(family.base), (), device="cpu"), lambda step: None)
    prompt = torch.arange(3, 40).unsqueeze(0)
    torch.testing.assert_close(loaded.model(prompt).logits, whole.model(prompt).logits)
    assert next(s.total for s in steps if s.stage == "weights") == sum(path.stat().st_size for path in shards)


def test_another_dtype_is_taken_on_wish(family):
    config = WorkerConfig("m", "transformers", str(family.base), (), device="cpu", dtype="bfloat16")
    assert str(load(config, lambda step: None).model.dtype) == "torch.bfloat16"
