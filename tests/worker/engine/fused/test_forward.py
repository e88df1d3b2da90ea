"""Compiled code beside the model's own: in every dtype, for every kind of processor, in any company."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.worker.engine.architectures import ARCHITECTURES, RECURRENT, architecture, make
from tests.worker.engine.driving import CPU, batch, finish, generated, heard, way

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.adapted import Adapted
from bainmarie_worker.engine.fused.forward import HINT
from bainmarie_worker.engine.fused.kernel import kernel
from bainmarie_worker.engine.memory import Part
from bainmarie_worker.engine.options import EngineOptions
from bainmarie_worker.engine.runner import TransformersRunner
from bainmarie_worker.engine.sequence import Sampling
from bainmarie_worker.engine.ways import best_way
from bainmarie_worker.errors import LoadError
from bainmarie_worker.loading import Loaded
from bainmarie_worker.packed_linear import pack

FUSED = [known for known in ARCHITECTURES if known.path == "fused"]
WEIGHTS = [(torch.float32, 0), (torch.bfloat16, 0), (torch.bfloat16, 8)]
"""Of a model: the dtype, and bits where they are packed."""
COMPARED = [known for known in FUSED if known.name != "bamba"]
"""But for one whose own code goes on from a cache only where generate() tells it the positions."""
_MAMBA = ["in_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHANGED = {
    **dict.fromkeys(("falcon_h1", "nemotron_h", "mamba2"), _MAMBA),
    "qwen3_next": [
        "in_proj_qkvz",
        "in_proj_ba",
        "out_proj",
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "shared_expert_gate",
    ],
}
"""Layers of families where not all can be: peft leaves their `out_proj` alone, or takes experts with them."""
ADAPTED = (
    *("phi3", "gemma3_text", "gemma4_text", "mixtral", "qwen2_moe", "glm4_moe", "flex_olmo", "granitemoeshared"),
    *("qwen3_5_text", "qwen3_5_moe_text", "lfm2", "lfm2_moe", "granitemoehybrid", "falcon_h1", "nemotron_h"),
    *("bamba", "mamba2", "gpt_oss", "deepseek_v3", "deepseek_v2", "qwen3_next", "exaone_moe"),
)
"""Of those the ones where an adapter is tried."""
SHARING = [known for known in FUSED if "num_kv_shared_layers" in known.settings]
"""Of those the ones with layers that look at the keys and values of others."""
LATENT = [known for known in FUSED if "kv_lora_rank" in known.settings]
"""Of those the ones whose keys and values are made of latents."""
NEAR = {torch.float32: 1e-5, torch.bfloat16: 0.06}
"""torch rounds to bf16 what it hands from layer to layer, and its int8 kernel the sums; compiled code does neither."""


def prompts(seed=1, count=7):
    chance = random.Random(seed)
    return [[chance.randrange(3, 128) for _ in range(chance.choice([1, 2, 5, 30, 150]))] for _ in range(count)]


def in_parts(forward, ids, size, last=3):
    """Logits of a text's last tokens, which is computed in so small parts by itself."""
    memory, last = forward.memory(), min(last, len(ids))
    begin = len(ids) - last
    parts = [Part(memory, ids[start : min(start + size, begin)], 0) for start in range(0, begin, size)]
    with torch.inference_mode():
        for part in (*parts, Part(memory, ids[-last:], last)):
            (result,) = forward.run([part])
            assert not isinstance(result, Exception), result
    return result


def distance(left, right):
    return float((left.float() - right.float()).norm() / right.float().norm())


def passes(forward, all_prompts):
    """Logits of each prompt's last three tokens: the first part of all in one pass, the rest in another."""
    memories = [forward.memory() for _ in all_prompts]
    with torch.inference_mode():
        cut = [len(ids) // 2 for ids in all_prompts]
        split = list(zip(memories, all_prompts, cut, strict=True))
        firsts = [Part(memory, ids[:at], 0) for memory, ids, at in split if at]
        for result in [*forward.run(firsts)] if firsts else []:
            assert not isinstance(result, Exception), result
        rest = [Part(m, ids[at:], min(3, len(ids) - at)) for m, ids, at in split]
        results = forward.run(rest)
    for result in results:
        assert not isinstance(result, Exception), result
    return results


@pytest.mark.parametrize("known", COMPARED, ids=lambda known: known.title)
@pytest.mark.parametrize(("dtype", "bits"), WEIGHTS)
def test_it_computes_what_the_model_computes(known, dtype, bits):
    models = [make(known).to(dtype) for _ in range(2)]
    for model in models if bits else []:
        pack(model, bits)
    other = "packed" if known.name not in RECURRENT else "apart"
    plain, fast = best_way(models[0], CPU, other), way(models[1])
    assert (plain.path, fast.path) == (other, "fused"), fast.why
    far = []
    for wanted, got in zip(passes(plain, prompts()), passes(fast, prompts()), strict=True):
        assert got.shape == wanted.shape
        far.append(distance(got, wanted))
    chosen = "expert" in str(known.settings)
    if (chosen or other == "apart") and dtype != torch.float32:
        far = [statistics.median(far), max(far) / 4]  # of two experts as good as each other rounding chooses one
    assert max(far) < NEAR[dtype]


def test_int8_weights_of_a_float32_model_are_left_to_its_own_code():
    """Whose product is exact to float32; the compiled one is made of bf16 numbers."""
    model = make(FUSED[0])
    pack(model, 8)
    forward = way(model)
    assert forward.path == "packed"
    assert forward.why.startswith("not fused: torch.int8 weights in a float32 model")


@pytest.mark.parametrize(("dtype", "bits"), WEIGHTS)
@pytest.mark.parametrize("known", FUSED, ids=lambda known: known.title)
def test_a_row_is_the_same_to_the_bit_in_any_company_and_with_any_threads(known, dtype, bits):
    model = make(known).to(dtype)
    if bits:
        pack(model, bits)
    forward = way(model)
    together = passes(forward, prompts())
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with_more = passes(forward, prompts())
    finally:
        torch.set_num_threads(before)
    alone = [passes(forward, [ids])[0] for ids in prompts()]
    for first, second, third, ids in zip(together, with_more, alone, prompts(), strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)
        for size in (1, 7, 64):
            assert torch.equal(first[-1:], in_parts(forward, ids, size)[-1:])


@pytest.mark.parametrize("known", [FUSED[0], *SHARING, *LATENT], ids=lambda known: known.title)
def test_its_memories_are_the_models_own_too(known):
    plain, fast = best_way(make(known), CPU, "packed"), way(make(known))
    ids = prompts()[0] * 20
    memory, other = fast.memory(), plain.memory()
    with torch.inference_mode():
        fast.run([Part(memory, ids[:-1], 0)])
        (mixed,) = plain.run([Part(memory, ids[-1:], 1)])
        (wanted,) = plain.run([Part(other, ids, 1)])
    assert distance(mixed, wanted) < 1e-5


def test_a_token_beyond_the_vocabulary_is_an_error_of_its_pass():
    forward = way(make(FUSED[0]))
    memory = forward.memory()
    (result,) = forward.run([Part(memory, [5, 128], 1)])
    assert isinstance(result, IndexError)
    assert memory.length == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("known", [known for known in FUSED if known.name in ADAPTED], ids=lambda known: known.title)
def test_an_adapter_where_matrices_are_merged_or_branches_have_norms_or_there_are_experts(known, tmp_path):
    """Beside the base, in the same passes."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    changed = CHANGED.get(known.name, "all-linear")
    wish = LoraConfig(r=8, lora_alpha=96, init_lora_weights=False, target_modules=changed)
    tuned = get_peft_model(make(known), wish).eval()
    tuned.save_pretrained(tmp_path)
    model = make(known)
    forward, adapters = way(model), Adapters(model, mix=True)
    assert forward.path == "fused", forward.why
    adapters.load(str(tmp_path), lambda step: None)
    mine = [heard(prompt, 8, adapter=str(tmp_path)) for prompt in prompts()]
    plain = [heard(prompt, 8) for prompt in prompts()]
    both = Adapted(forward, adapters)
    assert both.independent(str(tmp_path)) or any("experts" in name for name in known.settings)
    finish(batch(both), *mine, *plain)
    wanted, base = ([generated(one, prompt, 8) for prompt in prompts()] for one in (tuned, make(known)))
    assert [one.tokens for one in mine] == wanted
    assert [one.tokens for one in plain] == base
    assert wanted != base


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_compiled_code_cannot_apply_does_not_change_its_neighbours(tmp_path):
    """It is computed by the model's own code, in a pass beside the compiled one; a seed holds for it too."""
    from peft import LoraConfig, get_peft_model

    wish = LoraConfig(r=8, lora_alpha=96, init_lora_weights=False, target_modules=["lm_head", "q_proj"])
    get_peft_model(make(architecture("llama")).bfloat16(), wish).save_pretrained(tmp_path)
    model = make(architecture("llama")).bfloat16()
    forward, adapters = way(model), Adapters(model, mix=True)
    adapters.load(str(tmp_path), lambda step: None)
    both = Adapted(forward, adapters)
    assert [both.independent(adapter) for adapter in (None, str(tmp_path))] == [True, False]
    assert adapters.mixed

    def asked(adapter):
        return [
            heard(prompt, 8, Sampling(temperature=1.0, seed=seed), adapter=adapter, logprobs=0)
            for seed, prompt in enumerate(prompts())
        ]

    mine, plain, alone = asked(str(tmp_path)), asked(None), [*asked(str(tmp_path)), *asked(None)]
    unseeded = [heard(prompt, 8, adapter=str(tmp_path)) for prompt in prompts()]
    finish(batch(both), *mine, *unseeded, *plain)
    for one in alone:
        finish(batch(both), one)
    assert [one.drawn for one in [*mine, *plain]] == [one.drawn for one in alone]
    assert [one.drawn for one in mine] != [one.drawn for one in plain]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("odd", [{"use_dora": True}, {"target_modules": ["lm_head", "in_proj_z"]}], ids=str)
def test_an_adapter_is_refused_where_only_compiled_code_packs_and_cannot_apply_it(odd, tmp_path):
    """Others go on."""
    from peft import LoraConfig, get_peft_model

    paths = []
    for wish in ({}, odd):
        paths.append(str(tmp_path / str(len(paths))))
        config = LoraConfig(**{"r": 8, "init_lora_weights": False, "target_modules": ["in_proj_qkv", "q_proj"], **wish})
        get_peft_model(make(architecture("qwen3_5_text")), config).save_pretrained(paths[-1])
    model = make(architecture("qwen3_5_text"))
    runner = TransformersRunner(Loaded(model, None, CPU, 256, {}, frozenset(), {}), EngineOptions(), 1 << 30)
    assert runner.info["engine_path"] == "fused", runner.info

    def asked(adapter):
        stream = heard(prompts()[3], 8, adapter=adapter)
        runner.submit(stream)
        while runner.busy:
            runner.step()
        return stream

    before, refused, after = asked(paths[0]), asked(paths[1]), asked(paths[0])
    assert (refused.error.code, refused.error.hint) == ("adapter_unsupported", HINT)
    assert before.tokens == after.tokens != asked(None).tokens
    with pytest.raises(LoadError, match="more than LoRA"):
        runner.load_adapter(paths[1], lambda step: None)


def test_times_within_bounds_are_left_to_its_own_code():
    """Which keeps to them in passes of several tokens alone."""
    known = architecture("granitemoehybrid")
    found = best_way(make(replace(known, settings={**known.settings, "time_step_limit": (0.0, 0.5)})), CPU)
    assert "times within the bounds 0.0 and 0.5" in (found if isinstance(found, str) else found.why)


@pytest.mark.parametrize("name", ["qwen3_5_text", "lfm2", "granitemoehybrid", "mamba2"])
def test_a_state_is_cut_and_copied_where_it_was_marked(name):
    forward = way(make(architecture(name)))
    ids = prompts()[3]
    with torch.inference_mode():
        memory, fresh = forward.memory(), forward.memory()
        forward.run([Part(memory, ids[:9], 0)])
        memory.mark()
        forward.run([Part(memory, ids[9:-4], 0)])
        assert [memory.nearest(length) for length in (8, 9, 12, len(ids))] == [0, 9, 9, len(ids) - 4]
        early, late = memory.copy(9), memory.copy(memory.length)
        assert late.bytes >= memory.state.nbytes + fresh.bytes > 0
        forward.run([Part(memory, [5, 6, 7], 0)])
        memory.crop(9)
        rest = [Part(early, ids[9:], 1), Part(late, ids[-4:], 1), Part(memory, ids[9:], 1), Part(fresh, ids, 1)]
        *found, whole = forward.run(rest)
    assert all(torch.equal(one, whole) for one in found)


UNCUT = [known for known in FUSED if known.name in RECURRENT]


def computed(forward, memory, ids, wanted=0, guessed=0):
    """Logits of one pass of one sequence."""
    with torch.inference_mode():
        (result,) = forward.run([Part(memory, ids, wanted, guessed=guessed)])
    assert not isinstance(result, Exception), result
    return result


@pytest.mark.parametrize(("dtype", "bits"), WEIGHTS)
@pytest.mark.parametrize("known", UNCUT, ids=lambda known: known.title)
def test_guesses_are_taken_back_to_the_bit(known, dtype, bits):
    """After each number of right ones, in passes that follow each other, and beside another sequence."""
    model = make(known).to(dtype)
    if bits:
        pack(model, bits)
    forward = way(model)
    chance = random.Random(3)
    ids = [chance.randrange(3, 128) for _ in range(60)]
    wanted = computed(forward, forward.memory(), ids, len(ids))
    memory, beside = forward.memory(), forward.memory()
    computed(forward, memory, ids[:5])
    computed(forward, beside, [7, 8, 9])
    for right in (0, 1, 2, 3, 4, 4, 0, 0, 3, 4, 1, 2):
        before = memory.length
        tokens = [*ids[before : before + 1 + right], *[1] * 4][:5]
        with torch.inference_mode():
            got, company = forward.run([Part(memory, tokens, 5, guessed=4), Part(beside, [11, 12], 1)])
        assert torch.equal(got[: 1 + right], wanted[before : before + 1 + right])
        assert memory.nearest(before) == 0
        after = list(range(before + 1, before + 6))
        assert [memory.nearest(length) for length in after] == after
        memory.crop(before + 1 + right)
    rest = computed(forward, memory, ids[memory.length :], 1)
    assert torch.equal(rest[-1:], wanted[-1:])
    told = [7, 8, 9, *([11, 12] * 12)]
    assert torch.equal(company, computed(forward, forward.memory(), told, 1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("known", UNCUT, ids=lambda known: known.title)
def test_a_copy_or_a_mark_where_guesses_were_right(known, threads):
    """The state does not know these tokens yet; both go on as the memory itself does, and none changes another."""
    forward = way(make(known))
    ids = prompts()[3][:24]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        memory = forward.memory()
        computed(forward, memory, ids[:8])
        computed(forward, memory, ids[8:13], 5, guessed=4)
        early, late = memory.copy(10), memory.copy(13)
        memory.crop(11)
        memory.mark()
        computed(forward, memory, [*ids[11:14], 1, 1], 5, guessed=4)
        memory.crop(14)
        again, marked = memory.copy(12), memory.copy(11)
        computed(forward, memory, ids[14:20])
        assert memory.nearest(19) == 11
        found = [computed(forward, one, ids[one.length :], 1) for one in (early, late, again, marked, memory)]
        memory.crop(11)
        found.append(computed(forward, memory, ids[11:], 1))
        whole = computed(forward, forward.memory(), ids, 1)
    finally:
        torch.set_num_threads(before)
    assert [one.length for one in (early, late, again, marked, memory)] == [24] * 5
    assert all(torch.equal(one, whole) for one in found)


@pytest.mark.parametrize("name", ["mixtral", "glm4_moe"])
def test_a_router_that_gives_no_numbers_harms_no_other_pass(name):
    """Each of its experts would be chosen once, whatever it says of them."""
    model = make(architecture(name))
    forward = way(model)
    assert forward.path == "fused", forward.why
    before = passes(forward, prompts())
    router = model.model.layers[-1].mlp.gate.weight
    kept = router.detach().clone()
    with torch.no_grad():
        router.fill_(float("nan"))
        lost = passes(forward, [[5] * 300])
        router.copy_(kept)
    assert torch.isnan(lost[0]).all()
    for first, second in zip(before, passes(forward, prompts()), strict=True):
        assert torch.equal(first, second)


def test_experts_that_lie_otherwise_are_laid_out_anew_in_their_own_place():
    """The model's own code sees the same numbers."""
    model, other = (make(architecture("gpt_oss")) for _ in range(2))
    assert way(model).path == "fused"
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for layer in model.model.layers:
        for weights in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            assert weights.transpose(1, 2).is_contiguous()


def test_experts_whose_own_code_gates_otherwise_are_left_to_it():
    """Within its limit it may be the same, and short texts do not reach that."""
    model = make(architecture("gpt_oss"))
    experts = model.model.layers[-1].mlp.experts
    gated, limit = experts._apply_gate, experts.limit
    experts._apply_gate = lambda x: gated(x.clamp(min=-limit))
    assert way(model).why == "not fused: experts with other gates"


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_groups_of_experts_as_older_releases_chose_them_are_left_to_their_own_code(name):
    """These gave the experts of other groups the score 0, which a correction may leave behind."""
    model = make(architecture(name))
    model.model.layers[-1].mlp.gate.n_group = 4
    assert way(model).why == "not fused: groups of experts in the form of older releases"


@pytest.mark.parametrize("bits", [0, 8])
def test_a_pass_whose_rows_are_more_than_a_cache_holds(bits):
    model = make(FUSED[0]).to(torch.bfloat16)
    if bits:
        pack(model, bits)
    forward = way(model)
    ids = [3 + place % 97 * (place % 31) % 120 for place in range(4097)]
    assert torch.equal(in_parts(forward, ids, 1, last=len(ids))[-1:], in_parts(forward, ids, 100)[-1:])


def can(flag):
    """Whether this processor has it, as far as the system tells."""
    try:
        with open("/proc/cpuinfo") as lines:
            return any(flag in line.split() for line in lines if line.startswith("flags"))
    except OSError:
        return False


@pytest.mark.skipif(not can("amx_bf16"), reason="this processor has no matrix unit (amx_bf16): no products by tiles")
def test_products_are_made_by_tiles_where_there_are_any():
    """The other tests of this file have tried them here."""
    assert kernel().bainmarie_tiles() == 1


OTHER_PROCESSORS = [
    ("cooperlake", "avx512_bf16"),
    ("skylake-avx512", "avx512f"),
    ("x86-64-v3 -mtune=znver3", "avx2"),  # for which GCC takes sums apart in some loops
    ("x86-64-v2", "sse4_2"),
    ("x86-64", "sse2"),
]


@pytest.mark.parametrize(("kind", "flag"), OTHER_PROCESSORS)
def test_processors_with_narrower_vectors_or_without_tiles(kind, flag, tmp_path):
    """The same tests with code for them."""
    if not can(flag):
        pytest.skip(f"this processor has no {flag}, which code for {kind} needs")
    environ = {**os.environ, "CC": f"cc -mtune=generic -march={kind}", "BAIN_KERNELS": str(tmp_path)}
    only = "test_it_computes_what_the_model_computes or to_the_bit or a_cache_holds"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", only, __file__]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert os.listdir(tmp_path)
