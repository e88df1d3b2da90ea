"""Adapters on one base, through a real worker and straight at the functions that judge them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest

from bainmarie_protocol import Ready, ServedModel
from bainmarie_worker.adapter_fit import check
from bainmarie_worker.adapters import Adapters
from bainmarie_worker.errors import LoadError

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves

PROMPT = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 24, "temperature": 0}


def text(worker, model):
    reply = worker.post("/v1/chat/completions", {"model": model, **PROMPT})
    assert reply.status == 200, reply.body
    return reply.json["choices"][0]["message"]["content"]


@pytest.fixture
def logits(family):
    """A model in this process, and a way to see what it computes."""
    import torch
    from transformers import AutoModelForCausalLM

    def load(path):
        model = AutoModelForCausalLM.from_pretrained(path).eval()

        def compute():
            with torch.inference_mode():
                return model(torch.arange(3, 40).unsqueeze(0)).logits

        return model, compute

    return load


def test_an_adapter_answers_like_the_merged_model_and_the_base_stays_itself(worker, start_worker, family):
    base = text(worker, "m")
    adapted = text(worker, "alice")
    assert adapted != base
    assert text(worker, "m") == base
    assert text(worker, "alice") == adapted
    merged = start_worker(family.merged)
    merged.until(Ready)
    assert text(merged, "m") == adapted


def test_load_and_unload_by_name_are_idempotent(worker, family):
    extra = asdict(ServedModel("bob", adapter=str(family.adapter)))
    for _ in range(2):
        assert worker.post("/models/load", extra).status == 200
    assert text(worker, "bob") == text(worker, "alice")
    for _ in range(2):
        assert worker.post("/models/unload", {"name": "bob"}).status == 200
    assert worker.post("/v1/chat/completions", {"model": "bob", **PROMPT}).status == 404
    assert text(worker, "alice") != text(worker, "m")


def test_an_adapter_that_does_not_fit_is_an_error_of_its_own(worker, family, tmp_path, make_llama):
    bad = family_adapter(tmp_path / "bad", make_llama(hidden_size=32))
    reply = worker.post("/models/load", asdict(ServedModel("bad", adapter=str(bad))))
    assert reply.status == 503
    assert reply.json["error"]["code"] == "adapter_mismatch"
    assert text(worker, "alice") != text(worker, "m")


def family_adapter(path, model, **settings):
    from peft import LoraConfig, get_peft_model

    options = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, **settings}
    get_peft_model(model, LoraConfig(**options)).save_pretrained(path)
    return path


def test_mismatch_names_tensor_and_both_shapes(family, tmp_path, make_llama, logits):
    model, _ = logits(family.base)
    bad = family_adapter(tmp_path / "bad", make_llama(hidden_size=32))
    with pytest.raises(LoadError) as raised:
        check(str(bad), model)
    assert raised.value.code == "adapter_mismatch"
    assert "32" in raised.value.message
    assert "64" in raised.value.message
    assert "_proj" in raised.value.message


def test_mismatch_names_a_layer_that_is_not_there(family, tmp_path, make_llama, logits):
    model, _ = logits(family.base)
    deep = family_adapter(tmp_path / "deep", make_llama(num_hidden_layers=3))
    with pytest.raises(LoadError, match=r"model\.layers\.2\.") as raised:
        check(str(deep), model)
    assert raised.value.code == "adapter_mismatch"


def test_a_training_checkpoint_without_weights_is_named_as_one(family, tmp_path, logits):
    model, _ = logits(family.base)
    shutil.copy(family.adapter / "adapter_config.json", tmp_path)
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(LoadError, match=r"training checkpoint.*adapter_model\.safetensors") as raised:
        check(str(tmp_path), model)
    assert raised.value.code == "adapter_incomplete"


def test_the_hint_finds_an_adapter_one_level_below(family, tmp_path, logits):
    model, _ = logits(family.base)
    shutil.copytree(family.adapter, tmp_path / "checkpoint-20")
    with pytest.raises(LoadError) as raised:
        check(str(tmp_path), model)
    assert str(tmp_path / "checkpoint-20") in raised.value.hint


def test_a_cut_weights_file_is_found_by_its_header(family, tmp_path, logits):
    model, _ = logits(family.base)
    shutil.copytree(family.adapter, tmp_path / "cut")
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LoadError, match="is cut"):
        check(str(tmp_path / "cut"), model)


def test_pickled_adapters_only_where_they_are_allowed(family, tmp_path, logits):
    model, _ = logits(family.base)
    shutil.copytree(family.adapter, tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(LoadError) as raised:
        check(str(tmp_path / "pickled"), model)
    assert raised.value.code == "pickled_weights"
    check(str(tmp_path / "pickled"), model, allow_pickle=True)


def test_prompt_tuning_cannot_share_its_base(family, tmp_path, logits):
    model, _ = logits(family.base)
    shutil.copytree(family.adapter, tmp_path / "prompt")
    config = tmp_path / "prompt" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "PROMPT_TUNING"}))
    with pytest.raises(LoadError) as raised:
        check(str(tmp_path / "prompt"), model)
    assert raised.value.code == "adapter_unsupported"


@pytest.mark.parametrize("saved", ["99.1.0", "99.1.0.dev0@c0ffee"])
def test_settings_of_a_newer_peft_are_refused_where_they_are_on(family, tmp_path, logits, saved):
    model, compute = logits(family.base)
    base = compute()
    settings = json.loads((family.adapter / "adapter_config.json").read_text())
    adapters = Adapters(model)
    for name, more in {"on": {"use_later_kind": True}, "off": {"use_later_kind": False, "later_map": {}}}.items():
        path = shutil.copytree(family.adapter, tmp_path / name)
        (path / "adapter_config.json").write_text(json.dumps({**settings, **more, "peft_version": saved}))
    with pytest.raises(
        LoadError, match=f"does not know use_later_kind, which the adapter .*saved by peft {saved}"
    ) as failure:
        adapters.load(str(tmp_path / "on"), lambda step: None)
    assert failure.value.code == "version_too_old"
    assert compute().equal(base)
    adapters.load(str(tmp_path / "off"), lambda step: None)
    adapters.use(str(tmp_path / "off"))
    assert not compute().equal(base)


def test_switching_between_two_adapters_and_none(family, tmp_path, logits, make_llama):
    import torch

    torch.manual_seed(3)
    other = str(family_adapter(tmp_path / "other", make_llama(), target_modules=["k_proj", "v_proj"]))
    model, compute = logits(family.base)
    _, merged = logits(family.merged)
    adapters = Adapters(model)
    base = compute()
    adapters.use(str(family.adapter))
    torch.testing.assert_close(compute(), merged(), atol=1e-4, rtol=1e-4)
    adapters.use(other)
    second = compute()
    assert not torch.allclose(second, base, atol=1e-2)
    adapters.use(None)
    torch.testing.assert_close(compute(), base)
    adapters.use(str(family.adapter))
    torch.testing.assert_close(compute(), merged(), atol=1e-4, rtol=1e-4)
    adapters.unload(other)
    adapters.use(str(family.adapter))
    torch.testing.assert_close(compute(), merged(), atol=1e-4, rtol=1e-4)
    adapters.unload(str(family.adapter))
    torch.testing.assert_close(compute(), base)
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_pickled_adapter_that_runs_code_is_refused_and_the_worker_lives(start_worker, family, tmp_path):
    """Asked for by a request, so that it is read on the engine's thread while nothing is loaded by name."""
    import os

    import torch

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = tmp_path / "trap"
    shutil.copytree(family.adapter, trap)
    (trap / "adapter_model.safetensors").unlink()
    torch.save({"x": Trap()}, trap / "adapter_model.bin")
    names = ServedModel("m"), ServedModel("trap", adapter=str(trap)), ServedModel("alice", adapter=str(family.adapter))
    worker = start_worker(family.base, *names, device="cpu", allow_pickle=True)
    worker.until(Ready)
    base = text(worker, "m")
    reply = worker.post("/v1/chat/completions", {"model": "trap", **PROMPT})
    assert (reply.status, reply.json["error"]["code"]) == (503, "pickled_weights")
    assert not (tmp_path / "sprung").exists()
    assert text(worker, "m") == base != text(worker, "alice")


def changed_settings(family, path, **changes):
    shutil.copytree(family.adapter, path)
    config = path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return str(path)


def test_a_package_that_peft_wants_for_an_adapter_is_named(family, tmp_path, logits):
    model, compute = logits(family.base)
    base = compute()
    adapters = Adapters(model)
    with pytest.raises(LoadError, match="megatron") as raised:
        adapters.load(changed_settings(family, tmp_path / "a", megatron_config={"a": 1}), lambda step: None)
    assert raised.value.code == "package_missing"
    assert (compute() - base).abs().max() == 0


def known_beginnings():
    """All that the installed peft knows by name."""
    import typing

    from peft import LoraConfig

    (kinds,) = [
        part
        for part in typing.get_args(typing.get_type_hints(LoraConfig)["init_lora_weights"])
        if typing.get_args(part)
    ]
    return [name.replace("[number of iters]", "4") for name in typing.get_args(kinds)]


def test_no_adapter_changes_its_base_for_good(family, tmp_path, logits):
    """Some kinds of LoRA begin with other base weights, and peft puts those in when it loads them."""
    refused = {}
    for begun in known_beginnings():
        model, compute = logits(family.base)
        base = compute()
        adapters = Adapters(model)
        try:
            adapters.load(changed_settings(family, tmp_path / begun, init_lora_weights=begun), lambda step: None)
        except LoadError as error:
            refused[begun] = error
        assert (compute() - base).abs().max() == 0, begun
    assert {"pissa", "olora"} <= refused.keys()
    assert "gaussian" not in refused
    assert {error.code for error in refused.values()} == {"adapter_unsupported"}
    assert all(begun in error.message for begun, error in refused.items())


def test_an_adapter_that_repeats_layers_is_refused(family, tmp_path, logits):
    model, _ = logits(family.base)
    with pytest.raises(LoadError, match="layer_replication") as raised:
        check(changed_settings(family, tmp_path / "a", layer_replication=[[0, 1], [0, 2]]), model)
    assert raised.value.code == "adapter_unsupported"


@pytest.fixture(scope="module")
def other_kind(make_llama, tmp_path_factory):
    from peft import IA3Config, get_peft_model

    settings = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    path = tmp_path_factory.mktemp("ia3")
    get_peft_model(make_llama(), settings).save_pretrained(path)
    return str(path)


def load(adapters, path):
    adapters.load(str(path), lambda step: None)


@pytest.mark.parametrize("lora_first", [False, True])
def test_one_kind_shares_a_base_and_lora_comes_before_others(family, other_kind, logits, lora_first):
    """Whatever is asked for first."""
    adapters = Adapters(logits(family.base)[0], configured=["/gone", other_kind, str(family.adapter)])
    if lora_first:
        load(adapters, family.adapter)
    with pytest.raises(LoadError, match=r"of the kind IA3.* adapters of the kind LORA") as raised:
        load(adapters, other_kind)
    assert raised.value.code == "adapter_unsupported"
    assert "options: {path: auto}" in raised.value.hint
    load(adapters, family.adapter)


def test_another_kind_has_a_base_of_its_own(family, other_kind, logits):
    model, compute = logits(family.base)
    base = compute()
    adapters = Adapters(model, configured=[other_kind])
    with pytest.raises(LoadError, match=r"of the kind LORA.* adapters of the kind IA3"):
        load(adapters, family.adapter)
    adapters.use(other_kind)
    assert (compute() - base).abs().max() == 0, "it multiplies by one"
    adapters.use(None)
    adapters.unload(other_kind)
    assert compute().equal(base)


def test_where_none_is_configured_the_first_one_decides_until_it_is_gone(family, other_kind, logits):
    adapters = Adapters(logits(family.base)[0])
    load(adapters, other_kind)
    with pytest.raises(LoadError, match=r"of the kind LORA"):
        load(adapters, family.adapter)
    adapters.unload(other_kind)
    load(adapters, family.adapter)
    with pytest.raises(LoadError, match=r"of the kind IA3"):
        load(adapters, other_kind)


def test_a_worker_serves_the_kind_that_comes_before_others(start_worker, family, other_kind):
    names = ServedModel("m"), ServedModel("ia3", adapter=other_kind), ServedModel("alice", adapter=str(family.adapter))
    worker = start_worker(family.base, *names, device="cpu")
    worker.until(Ready)
    reply = worker.post("/v1/chat/completions", {"model": "ia3", **PROMPT})
    assert (reply.status, reply.json["error"]["code"]) == (503, "adapter_unsupported")
    assert text(worker, "alice") != text(worker, "m")


def changed_tensors(path, change):
    """The adapter with what `change` makes of its tensors."""
    from safetensors.torch import load_file, save_file

    weights = path / "adapter_model.safetensors"
    save_file(change(load_file(weights)), weights, {"format": "pt"})
    return str(path)


@pytest.mark.parametrize("half", [".lora_A", ".lora_B"])
def test_half_a_change_is_no_adapter(family, tmp_path, logits, half):
    path = shutil.copytree(family.adapter, tmp_path / "half")
    gone = []

    def cut(tensors):
        gone.extend([name for name in tensors if half in name][:2])
        return {name: tensor for name, tensor in tensors.items() if name not in gone}

    with pytest.raises(LoadError, match=r"lacks 2 tensors, such as \S+") as raised:
        check(changed_tensors(path, cut), logits(family.base)[0])
    assert raised.value.code == "adapter_incomplete"
    assert sorted(gone)[0] in raised.value.message


def test_added_tokens_are_told_in_numbers(tmp_path, make_llama):
    from peft import LoraConfig, get_peft_model

    grown = make_llama()
    size = grown.config.vocab_size
    grown.resize_token_embeddings(size + 3)
    settings = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    get_peft_model(grown, settings).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=f"a vocabulary of {size + 3} tokens, not {size}$") as raised:
        check(str(tmp_path), make_llama())
    assert raised.value.code == "adapter_mismatch"
    assert "merge" in raised.value.hint


@pytest.fixture
def with_output_layer(tmp_path, make_llama, family):
    """A change of the output layer, beside which peft saves that layer itself."""
    path = family_adapter(tmp_path / "head", make_llama(), target_modules=["lm_head"])

    def of_the_base(tensors):
        from safetensors.torch import load_file

        (name,) = [name for name in tensors if "base_layer" in name]
        return {**tensors, name: load_file(family.base / "model.safetensors")["lm_head.weight"]}

    changed_tensors(path, of_the_base)
    return path


def test_weights_that_come_along_are_not_put_into_the_base(with_output_layer, family, logits):
    model, compute = logits(family.base)
    base, own = compute(), model.lm_head.weight
    adapters = Adapters(model)
    load(adapters, with_output_layer)
    assert model.lm_head.base_layer.weight is own
    assert compute().equal(base)
    adapters.use(str(with_output_layer))
    assert not compute().equal(base)


def test_other_weights_that_come_along_are_another_base(with_output_layer, family, logits):
    model, compute = logits(family.base)
    base = compute()

    def other(tensors):
        return {name: tensor + ("base_layer" in name) for name, tensor in tensors.items()}

    changed_tensors(with_output_layer, other)
    for _ in range(2):
        adapters = Adapters(model)
        with pytest.raises(LoadError, match=r"lm_head\.base_layer\.weight along, which is not what") as raised:
            load(adapters, with_output_layer)
        assert raised.value.code == "adapter_mismatch"
        assert compute().equal(base)
        load(adapters, family.adapter)
        adapters.unload(str(family.adapter))
