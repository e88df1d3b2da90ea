"""Fewer bits: what is asked for happens, or the load fails with the reason."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from bainmarie_protocol import ServedModel, WorkerConfig
from bainmarie_worker.adapter_fit import check
from bainmarie_worker.adapters import Adapters
from bainmarie_worker.errors import LoadError
from bainmarie_worker.loading import load

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not in this environment"
)


def load_as(model, **fields):
    config = WorkerConfig("m", "transformers", str(model), (ServedModel("m"),), **{"device": "cpu", **fields})
    return load(config, lambda step: None)


def logits(model):
    import torch

    with torch.inference_mode():
        return model(torch.arange(3, 40).unsqueeze(0)).logits.float()


def error_against(model, reference):
    return ((logits(model) - logits(reference)).norm() / logits(reference).norm()).item()


@pytest.fixture
def copy(family, tmp_path):
    shutil.copytree(family.base, tmp_path / "copy")
    return tmp_path / "copy"


def stored(directory, **settings):
    config = directory / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": settings}))
    return directory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("quantization", "most"), [("int8", 0.06), ("int4", 0.6)])
def test_packed_on_the_cpu_stays_near_the_whole_model(family, dtype, quantization, most):
    whole = load_as(family.base, dtype=dtype)
    packed = load_as(family.base, dtype=dtype, quantization=quantization)
    assert packed.packed
    assert not whole.packed
    assert str(packed.info["quantization"]).startswith(f"{quantization} (weight-only")
    assert 0 < error_against(packed.model, whole.model) < most


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 200])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["Int8Linear", "Int4Linear"])
def test_a_packed_layer_is_its_own_weights_times_the_input(rows, dtype, kind):
    import torch

    from bainmarie_worker import packed_linear

    torch.manual_seed(rows)
    linear = torch.nn.Linear(96, 48, dtype=getattr(torch, dtype))
    layer = getattr(packed_linear, kind)(linear)
    row = torch.eye(96, dtype=linear.weight.dtype)
    weights = torch.cat([layer(row[n : n + 1]) for n in range(96)]).float() - linear.bias.float()
    error = (weights.t() - linear.weight.float()).abs().max() / linear.weight.float().abs().max()
    assert error < (0.01 if kind == "Int8Linear" else 0.08)
    x = torch.randn(2, rows, 96, dtype=linear.weight.dtype)
    expected = x.float() @ weights + linear.bias.float()
    assert ((layer(x).float() - expected).norm() / expected.norm()).item() < (1e-4 if dtype == "float32" else 0.01)


def test_layers_that_no_kernel_fits_stay_whole():
    import torch

    from bainmarie_worker.packed_linear import pack

    model = torch.nn.Sequential(torch.nn.Linear(33, 16), torch.nn.Linear(16, 33), torch.nn.Linear(32, 16))
    assert pack(model, 4) == 16 * 33 + 32 * 16
    assert [type(layer).__name__ for layer in model] == ["Linear", "Int8Linear", "Int4Linear"]


def test_a_model_of_other_layers_is_refused_and_not_left_whole(tmp_path, tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(settings).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="int8 reaches only") as raised:
        load_as(tmp_path, quantization="int8")
    assert raised.value.code == "quantization"


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_an_adapter_on_a_packed_base(family, quantization):
    packed = load_as(family.base, quantization=quantization).model
    whole = load_as(family.merged).model
    adapters = Adapters(packed)
    before = logits(packed)
    adapters.use(str(family.adapter))
    assert error_against(packed, whole) < (0.06 if quantization == "int8" else 0.6)
    adapters.use(None)
    assert (logits(packed) - before).abs().max() == 0


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_an_adapter_on_a_packed_output_layer(family, tmp_path, quantization):
    """Beside which it brings the whole one along."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, lora_alpha=64, target_modules=["lm_head"], init_lora_weights=False)
    adapted = get_peft_model(load_as(family.base).model, settings)
    adapted.save_pretrained(tmp_path)
    packed = load_as(family.base, quantization=quantization).model
    adapters = Adapters(packed)
    before = logits(packed)
    adapters.use(str(tmp_path))
    assert error_against(packed, adapted) < (0.06 if quantization == "int8" else 0.6)
    adapters.use(None)
    assert (logits(packed) - before).abs().max() == 0


def test_an_adapter_that_computes_with_weights_does_not_fit_packed_ones(family, tmp_path, make_llama):
    from peft import LoraConfig, get_peft_model

    get_peft_model(make_llama(), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="is DoRA, which computes with") as raised:
        check(str(tmp_path), load_as(family.base, quantization="int8").model)
    assert raised.value.code == "adapter_unsupported"
    check(str(tmp_path), load_as(family.base).model)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_models_whose_code_asks_for_the_type_of_weights(tmp_path, tokenizer, name, quantization):
    """Those that make it the type of what they multiply with them."""
    from tests.worker.engine.architectures import Architecture, architecture, make

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "vocab_size": 128}
    known = Architecture("mamba", sizes) if name == "mamba" else architecture(name)
    make(known).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    whole, packed = load_as(tmp_path), load_as(tmp_path, quantization=quantization)
    assert packed.model.dtype == whole.model.dtype
    assert error_against(packed.model, whole.model) < (0.06 if quantization == "int8" else 0.6)


def test_whole_layers_of_an_adapter_do_not_fit_packed_ones(family, tmp_path, make_llama):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    get_peft_model(make_llama(), settings).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="lm_head") as raised:
        check(str(tmp_path), load_as(family.base, quantization="int8").model)
    assert raised.value.code == "adapter_unsupported"
    check(str(tmp_path), load_as(family.base).model)


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "quanto", "aqlm"])
def test_a_checkpoint_whose_reader_is_missing_names_it(copy, method):
    with pytest.raises(LoadError, match=method) as raised:
        load_as(stored(copy, quant_method=method, bits=4, group_size=32, weights="int4", in_group_size=8))
    assert raised.value.code in ("package_missing", "quantization")
    assert raised.value.hint


def test_an_unknown_method_is_refused_and_not_read_as_if_it_were_whole(copy):
    with pytest.raises(LoadError, match="tomorrow") as raised:
        load_as(stored(copy, quant_method="tomorrow"))
    assert raised.value.code == "quantization"


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_what_would_become_16_bit_here_is_refused(copy, method):
    with pytest.raises(LoadError, match=method) as raised:
        load_as(stored(copy, quant_method=method))
    assert raised.value.code in ("quantization", "package_missing")


def test_a_second_quantization_is_refused(copy):
    with pytest.raises(LoadError, match="quantized already") as raised:
        load_as(stored(copy, quant_method="gptq", bits=4), quantization="int8")
    assert raised.value.code == "quantization"


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is in this environment")
def test_nf4_without_bitsandbytes_names_the_package(family):
    with pytest.raises(LoadError, match="bitsandbytes") as raised:
        load_as(family.base, quantization="nf4")
    assert raised.value.code == "package_missing"


needs_compressed_tensors = pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None, reason="compressed-tensors is not in this environment"
)


@needs_compressed_tensors
def test_what_would_be_unpacked_by_the_first_pass_needs_consent(family, copy):
    settings = compress(copy, "float8")
    with pytest.raises(LoadError, match="would make 16-bit weights of it") as raised:
        load_as(stored(copy, **settings))
    assert raised.value.code == "quantization"
    assert '"dequantize": true' in raised.value.hint
    agreed = load_as(stored(copy, **settings, dequantize=True))
    assert 0 < error_against(agreed.model, load_as(family.base).model) < 0.2


@needs_compressed_tensors
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("group", [32, 64])
def test_groups_of_4_bits_are_computed_as_the_checkpoint_has_them(make_llama, tokenizer, tmp_path, group, dtype):
    make_llama(hidden_size=128, intermediate_size=192).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = compress(tmp_path, "int4", group)
    unpacked = load_as(stored(tmp_path, **settings, dequantize=True), dtype=dtype)
    packed = load_as(stored(tmp_path, **settings), dtype=dtype)
    kinds = [type(module).__name__ for module in packed.model.modules() if "Linear" in type(module).__name__]
    assert kinds.count("Int4Linear") == len(kinds) - 1, "all but the output layer, which is stored whole"
    assert str(packed.info["quantization"]).startswith("compressed-tensors (int4, ")
    assert packed.packed
    assert error_against(packed.model, unpacked.model) < (1e-4 if dtype == "float32" else 0.03)


@needs_compressed_tensors
@pytest.mark.parametrize("change", [{"symmetric": False}, {"actorder": "group"}, {"num_bits": 8}])
def test_other_groups_are_not_taken_for_these(copy, change):
    settings = compress(copy, "int4")
    settings["config_groups"]["all"]["weights"].update(change)
    with pytest.raises(LoadError) as raised:
        load_as(stored(copy, **settings))
    assert raised.value.code == "quantization"


def compress(directory, kind, group=32):
    """Puts compressed weights in the place of the whole ones; the quantization_config that tells of it."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    shape = {"num_bits": 4, "strategy": "group", "group_size": group}
    if kind == "float8":
        shape = {"num_bits": 8, "type": "float", "strategy": "channel"}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(symmetric=True, **shape))
    written = "pack-quantized" if kind == "int4" else "float-quantized"
    config = QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"], format=written)
    apply_quantization_config(model, config)
    for layer in model.modules():
        if hasattr(layer, "weight_scale"):
            groups = layer.weight.detach().reshape(*layer.weight_scale.shape, -1)
            layer.weight_scale.data = groups.abs().amax(-1) / (7 if kind == "int4" else 448)
    ModelCompressor(quantization_config=config).compress_model(model)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    told = json.loads(config.model_dump_json())
    return {**told, "quant_method": "compressed-tensors", "quantization_status": "compressed"}


@pytest.fixture(scope="module")
def even_family(tokenizer, make_llama, tmp_path_factory):
    """As `family`, with layers whose sizes are whole blocks: bitsandbytes' CPU kernel takes no others."""
    from types import SimpleNamespace

    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("even")
    found = SimpleNamespace(base=root / "base", adapter=root / "adapter", merged=root / "merged")
    model = make_llama(intermediate_size=128)
    model.save_pretrained(found.base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    adapted.save_pretrained(found.adapter)
    adapted.merge_and_unload().save_pretrained(found.merged)
    for directory in (found.base, found.merged):
        tokenizer.save_pretrained(directory)
    return found


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_bitsandbytes_on_the_cpu_and_an_adapter_on_it(even_family, quantization):
    family = even_family
    loaded = load_as(family.base, quantization=quantization)
    kinds = {type(module).__name__ for module in loaded.model.modules()}
    assert "Linear4bit" in kinds
    assert loaded.info["quantization"] == quantization
    adapters = Adapters(loaded.model)
    adapters.use(str(family.adapter))
    merged, base = load_as(family.merged).model, load_as(family.base).model
    assert error_against(loaded.model, merged) < 0.7 < error_against(loaded.model, base)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_experts_that_stay_in_16_bit_are_refused(tokenizer, tmp_path, quantization):
    """transformers holds the experts of a layer in one tensor, which neither bitsandbytes nor our kernels know."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_local_experts": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    MixtralForCausalLM(MixtralConfig(vocab_size=len(tokenizer), **sizes, **heads)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=f"{quantization} reaches only") as raised:
        load_as(tmp_path, quantization=quantization)
    assert raised.value.code == "quantization"


@needs_bitsandbytes
def test_what_the_kernels_cannot_compute_fails_the_load_and_is_never_ready(family):
    """The layers of `family` are no whole blocks: bitsandbytes loads them, and its kernel for avx512_bf16 fails at the
    first pass; without it they are computed."""
    from bitsandbytes.functional import has_avx512bf16

    from bainmarie_worker.warm import load_and_warm

    config = WorkerConfig("m", "transformers", str(family.base), (ServedModel("m"),), device="cpu", quantization="nf4")
    if not has_avx512bf16():
        assert load_and_warm(config, lambda step: None).info["quantization"] == "nf4"
        return
    with pytest.raises(LoadError, match="nf4 cannot be computed on cpu") as raised:
        load_and_warm(config, lambda step: None)
    assert raised.value.code == "quantization"


@needs_bitsandbytes
def test_a_checkpoint_that_bitsandbytes_wrote_under_an_adapter(even_family, tmp_path):
    family = even_family
    load_as(family.base, quantization="nf4").model.save_pretrained(tmp_path / "nf4")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(family.base / name, tmp_path / "nf4")
    loaded = load_as(tmp_path / "nf4")
    assert loaded.info["quantization"] == "bitsandbytes"
    assert "Linear4bit" in {type(module).__name__ for module in loaded.model.modules()}
    adapters = Adapters(loaded.model)
    before = logits(loaded.model)
    adapters.use(str(family.adapter))
    assert (logits(loaded.model) - before).abs().max() > 0.1
