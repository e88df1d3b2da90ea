"""Models that also read images: their text part is served as any other."""

from __future__ import annotations

import pytest
import torch
from tests.worker.engine.driving import batch, finish, generated, heard, way

from bainmarie_protocol import WorkerConfig
from bainmarie_worker.loading import load

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
SIGHT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}


@pytest.fixture
def mistral3(tokenizer, tmp_path):
    """A checkpoint of a type that AutoModelForCausalLM does not know."""
    import transformers

    text = {"model_type": "mistral", "vocab_size": len(tokenizer), **TEXT}
    config = transformers.Mistral3Config(
        text_config=text, vision_config={"model_type": "pixtral", "patch_size": 14, **SIGHT}, image_token_index=3
    )
    assert type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    torch.manual_seed(5)
    model = transformers.Mistral3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


@pytest.fixture
def qwen3_5(tokenizer, tmp_path):
    """One whose text part is a causal language model of its own type, with states."""
    import transformers

    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    }
    sight = {"hidden_size": 32, "intermediate_size": 64, "depth": 1, "num_heads": 2, "out_hidden_size": 64}
    config = transformers.Qwen3_5Config(text_config=text, vision_config=sight)
    torch.manual_seed(5)
    model = transformers.Qwen3_5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


@pytest.mark.parametrize("made", ["mistral3", "qwen3_5"])
def test_the_text_part_is_computed_by_compiled_code(made, request):
    path, model = request.getfixturevalue(made)
    loaded = load(WorkerConfig("m", "transformers", str(path), (), device="cpu"), lambda step: None)
    assert loaded.context == 512
    forward = way(loaded.model)
    assert forward.path == "fused", forward.why
    prompts = [[5, 9, 33, 7], list(range(40, 90))]
    streams = [heard(prompt, 12) for prompt in prompts]
    finish(batch(forward), *streams)
    assert [stream.tokens for stream in streams] == [generated(model, prompt, 12) for prompt in prompts]
