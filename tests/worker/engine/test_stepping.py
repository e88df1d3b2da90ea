"""Our loop against the library's own `generate()`, over architectures with different kinds of memory."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
import transformers

from bainmarie_worker.engine.library import Library
from bainmarie_worker.engine.sequence import Sequence
from bainmarie_worker.engine.stepping import Stepping

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves

SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
PROMPT = tuple(range(3, 40))


@pytest.fixture(params=["full", "sliding", "recurrent"])
def model(request):
    kinds = {
        "full": ("llama", SIZES),
        "sliding": ("gemma2", {**SIZES, "sliding_window": 8}),
        "recurrent": (
            "mamba2",
            {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16, "expand": 2,
             "state_size": 16, "n_groups": 1},
        ),
    }  # fmt: skip
    name, settings = kinds[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(name, **settings)
        yield transformers.AutoModelForCausalLM.from_config(config).float().eval()


def loop_for(model, end_ids=frozenset()):
    kind = Stepping if Stepping.fits(model, transformers.__version__) else Library
    return kind(model, torch.device("cpu"), end_ids)


def run(loop, prompt, count=12):
    tokens = []
    with torch.inference_mode():
        finish = loop.generate(Sequence(tuple(prompt), count), tokens.append, threading.Event())
    return tokens, finish


def test_it_says_what_generate_says(model):
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        expected = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    tokens, finish = run(loop_for(model), PROMPT)
    assert tokens == expected[0, len(PROMPT) :].tolist()
    assert (finish.reason, finish.generated) == ("length", 12)


def test_going_on_or_turning_back_gives_what_a_fresh_start_gives(model):
    loop = loop_for(model)
    tokens, _ = run(loop, PROMPT)
    for prompt in ((*PROMPT, *tokens, 5, 6, 7), (*PROMPT, *tokens[:4], 9), PROMPT[:20], (99, *PROMPT), PROMPT):
        assert run(loop, prompt)[0] == run(loop_for(model), prompt)[0]


def test_the_end_token_ends_it_and_is_not_told(model):
    tokens, _ = run(loop_for(model), PROMPT)
    end = tokens[5]
    told, finish = run(loop_for(model, frozenset([end])), PROMPT)
    assert told == tokens[: tokens.index(end)]
    assert (finish.reason, finish.generated) == ("stop", len(told) + 1)


def test_cancelled_within_one_step(model):
    loop, cancelled, tokens = loop_for(model), threading.Event(), []

    def accept(token):
        tokens.append(token)
        if len(tokens) == 3:
            cancelled.set()

    with torch.inference_mode():
        finish = loop.generate(Sequence(PROMPT, 50), accept, cancelled)
    assert (finish.reason, len(tokens)) == ("cancelled", 3)
    assert run(loop, PROMPT)[0] == run(loop_for(model), PROMPT)[0]
