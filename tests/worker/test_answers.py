"""A real worker with a tiny random model: what comes out for what goes in."""

from __future__ import annotations

import pytest

LONG = "Tell me about the sea, the wind and the very small fishes in it. " * 2
TOOLS = [{"type": "function", "function": {"name": "calculator", "parameters": {"type": "object", "properties": {}}}}]


def words(chunks):
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])


def test_a_stream_says_the_same_as_a_whole_answer(worker):
    whole = worker.chat("Hello", max_tokens=40, temperature=0).json
    chunks = worker.chat(
        "Hello", max_tokens=40, temperature=0, stream=True, stream_options={"include_usage": True}
    ).chunks
    text = whole["choices"][0]["message"]["content"]
    assert len(text) > 10
    assert words(chunks) == text
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 40
    assert {c["id"] for c in chunks} == {chunks[0]["id"]}
    assert whole["model"] == "m"
    assert whole["object"] == "chat.completion"


def test_usage_counts_the_prompt_as_the_template_writes_it(worker, tokenizer):
    messages = [{"role": "user", "content": "Grüße"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    count = len(tokenizer.encode(prompt, add_special_tokens=False))
    usage = worker.chat(messages, max_tokens=2).json["usage"]
    assert usage["prompt_tokens"] == count
    assert usage["total_tokens"] == count + 2


def test_a_shared_beginning_is_not_computed_again_and_changes_nothing(worker):
    history = [{"role": "user", "content": LONG}]
    first = worker.chat(history, max_tokens=20, temperature=0).json
    answer = first["choices"][0]["message"]["content"]
    history += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
    second = worker.chat(history, max_tokens=20, temperature=0).json
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"]
    worker.chat("Something else that shares little", max_tokens=1)
    again = worker.chat(history, max_tokens=20, temperature=0).json
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == second["usage"]["prompt_tokens"] - 1
    assert again["choices"][0]["message"]["content"] == second["choices"][0]["message"]["content"]


def test_the_same_request_computes_one_prompt_token(worker):
    worker.chat(LONG, max_tokens=4, temperature=0)
    usage = worker.chat(LONG, max_tokens=4, temperature=0).json["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_it(worker, stream):
    full = worker.text("Hello", max_tokens=40, temperature=0)
    stop = full[9:13]
    expected = full[: full.index(stop)]
    reply = worker.chat("Hello", max_tokens=40, temperature=0, stop=["never\n\n", stop], stream=stream)
    if stream:
        assert words(reply.chunks) == expected
        assert reply.chunks[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        choice = reply.json["choices"][0]
        assert choice["message"]["content"] == expected
        assert choice["finish_reason"] == "stop"
        assert 0 < reply.json["usage"]["completion_tokens"] < 40


def test_a_seed_repeats_an_answer_and_another_one_does_not(worker):
    def draw(seed):
        return worker.text("Hello", max_tokens=30, temperature=1.5, seed=seed)

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_top_k_of_one_is_greedy(worker):
    greedy = worker.text("Hello", max_tokens=20, temperature=0)
    assert worker.text("Hello", max_tokens=20, temperature=2, top_k=1) == greedy
    assert worker.text("Hello", max_tokens=20, temperature=2, top_p=1e-9) == greedy


def test_without_any_setting_an_untuned_checkpoint_is_greedy(worker):
    assert worker.text("Hello", max_tokens=20) == worker.text("Hello", max_tokens=20, temperature=0)


def test_max_tokens_is_bounded_by_the_room_that_is_left(worker):
    reply = worker.chat(LONG, max_tokens=100_000, temperature=0).json
    assert reply["usage"]["total_tokens"] == 512
    assert reply["choices"][0]["finish_reason"] == "length"


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(worker, tokenizer):
    messages = [{"role": "user", "content": "x" * 600}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    count = len(tokenizer.encode(prompt, add_special_tokens=False))
    reply = worker.chat(messages, max_tokens=1)
    error = reply.json["error"]
    assert reply.status == 400
    assert error["code"] == "context_length_exceeded"
    assert "512" in error["message"]
    assert str(count) in error["message"]


def test_plain_models_get_the_text_alone(worker, tokenizer):
    messages = [{"role": "system", "content": "Once"}, {"role": "user", "content": "upon a time"}]
    chat = worker.post("/v1/chat/completions", {"model": "plain", "messages": messages, "max_tokens": 8}).json
    raw = worker.post("/v1/completions", {"model": "m", "prompt": "Once\nupon a time", "max_tokens": 8}).json
    assert chat["choices"][0]["message"]["content"] == raw["choices"][0]["text"]
    assert chat["usage"]["prompt_tokens"] == len(tokenizer.encode("Once\nupon a time"))


def test_completions_stream_the_same_text(worker):
    body = {"model": "m", "prompt": ["Once"], "max_tokens": 12, "temperature": 0}
    whole = worker.post("/v1/completions", body).json
    chunks = worker.post("/v1/completions", {**body, "stream": True}).chunks
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert whole["object"] == "text_completion"


def test_the_default_system_prompt_gives_way_to_the_requests_own(worker):
    def prompt_tokens(model, *messages):
        body = {"model": model, "messages": list(messages), "max_tokens": 1}
        return worker.post("/v1/chat/completions", body).json["usage"]["prompt_tokens"]

    brief = {"role": "system", "content": "You are brief."}
    hello = {"role": "user", "content": "Hello"}
    assert prompt_tokens("brief", hello) == prompt_tokens("m", brief, hello)
    assert prompt_tokens("brief", brief, hello) == prompt_tokens("m", brief, hello)
    assert prompt_tokens("m", hello) < prompt_tokens("m", brief, hello)


def test_tools_are_shown_to_the_model_unless_the_choice_is_none(worker):
    bare = worker.chat("Hello", max_tokens=1).json["usage"]["prompt_tokens"]
    shown = worker.chat("Hello", max_tokens=1, tools=TOOLS).json["usage"]["prompt_tokens"]
    hidden = worker.chat("Hello", max_tokens=1, tools=TOOLS, tool_choice="none").json["usage"]["prompt_tokens"]
    assert hidden == bare < shown


def test_info_names_versions_interpreter_and_one_load(worker):
    import sys

    import transformers

    info = worker.get("/info").json
    assert info["interpreter"] == sys.executable
    assert info["packages"]["transformers"] == transformers.__version__
    assert info["loads"] == 1
    assert info["context"] == 512
    assert info["dtype"] == "float32"
    assert info["device"] == "cpu"
    assert info["parameters"] > 10_000


def test_the_bad_request_leaves_the_worker_as_it_was(worker):
    before = worker.text("Hello", max_tokens=8, temperature=0)
    assert worker.post("/v1/chat/completions", b"{not json").status == 400
    assert worker.chat([{"role": "robot", "content": "x"}]).status == 400
    assert worker.post("/v1/chat/completions", {"model": "other", "messages": []}).status == 400
    unknown = worker.post("/v1/chat/completions", {"model": "alise", "messages": [{"role": "user", "content": "x"}]})
    assert unknown.status == 404
    assert "alice" in unknown.json["error"]["hint"]
    assert worker.text("Hello", max_tokens=8, temperature=0) == before


def test_a_bias_for_a_token_that_is_not_there_is_refused(worker, tokenizer):
    """`tokenizer` has as many tokens as the model."""
    reply = worker.chat("Hello", logit_bias={str(len(tokenizer)): 1}, max_tokens=2)
    assert (reply.status, reply.json["error"]["param"]) == (400, "logit_bias")
    assert str(len(tokenizer) - 1) in reply.json["error"]["message"]
    assert worker.chat("Hello", logit_bias={str(len(tokenizer) - 1): 1}, max_tokens=2).status == 200


@pytest.mark.parametrize(
    ("generation", "wished"),
    [
        ({}, {}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"do_sample": True, "top_k": 20}, {"temperature": 1.0, "top_k": 20}),
    ],
)
def test_sampling_that_a_checkpoint_wishes_for(generation, wished):
    from transformers import GenerationConfig

    from bainmarie_worker.model_settings import sampling_of

    found = sampling_of(GenerationConfig(**generation))
    assert {name: found[name] for name in wished} == wished
    assert bool(found) == bool(wished)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "half \ud800"}]},
        {
            "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "\ud800"}}],
        },
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_text_that_is_none_is_the_clients_error(worker, fields, stream):
    reply = worker.post("/v1/chat/completions", {"model": "m", "stream": stream, **fields})
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_value")
    assert "surrogate" in reply.json["error"]["message"]


EXTREME = [
    {"temperature": 100, "top_p": 0},
    {"temperature": 1, "top_p": 1e-12},
    {"temperature": 1, "top_k": 10**12},
    {"temperature": 1, "min_p": 1},
    {"temperature": 1e-5},
    {"temperature": 1, "seed": -(2**63)},
    {"temperature": 1, "seed": 2**63 - 1, "n": 3},
    {"temperature": 1, "repetition_penalty": 0.01},
    {"repetition_penalty": 100},
    {"presence_penalty": 2, "frequency_penalty": -2},
    {"temperature": 1, "logit_bias": {str(token): -100 for token in range(261)}},
    {"logprobs": True, "top_logprobs": 20, "n": 2},
    {"stop": ["a" * 100_000, ""]},
    {"max_tokens": 10**9, "ignore_eos": True},
]


@pytest.mark.parametrize("fields", EXTREME, ids=str)
def test_extreme_settings_are_answered(worker, fields):
    choices = worker.chat("x", **{"max_tokens": 4, **fields}).json["choices"]
    assert len(choices) == fields.get("n", 1)
    assert {choice["finish_reason"] for choice in choices} == {"length"}
