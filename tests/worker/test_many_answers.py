"""Requests for several answers, for probabilities, and answers that end at a stop string: through a real worker."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

HOT = {"temperature": 1.5, "max_tokens": 16}


def texts(reply):
    assert reply.status == 200, reply.body
    return [choice["message"]["content"] for choice in reply.json["choices"]]


def streamed(reply):
    """The text of each choice, and how each ended."""
    assert reply.status == 200, reply.body
    words: dict[int, str] = {}
    ends: dict[int, str] = {}
    for chunk in reply.chunks:
        for choice in chunk["choices"]:
            place = choice["index"]
            assert place not in ends
            words[place] = words.get(place, "") + choice["delta"].get("content", "")
            if choice["finish_reason"]:
                ends[place] = choice["finish_reason"]
    return [words[place] for place in sorted(words)], [ends[place] for place in sorted(ends)]


def test_each_answer_has_the_seed_after_the_one_before(worker):
    several = texts(worker.chat("Hello", n=4, seed=10, **HOT))
    single = [worker.text("Hello", seed=seed, **HOT) for seed in range(10, 14)]
    assert several == single
    assert len(set(several)) == 4


def test_without_a_seed_they_differ(worker):
    assert len(set(texts(worker.chat("Hello", n=4, **HOT)))) == 4


def test_greedy_ones_are_the_same(worker):
    several = texts(worker.chat("Hello", n=3, temperature=0, max_tokens=16))
    assert several == [worker.text("Hello", temperature=0, max_tokens=16)] * 3


def test_usage_counts_the_prompt_once_and_all_answers(worker):
    one = worker.chat("Hello", seed=1, **HOT).json
    usage = worker.chat("Hello", n=3, seed=1, **HOT).json["usage"]
    assert usage["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert usage["completion_tokens"] == 3 * 16
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_of_several_says_the_same(worker):
    whole = worker.chat("Hello", n=3, seed=5, **HOT)
    words, ends = streamed(worker.chat("Hello", n=3, seed=5, stream=True, **HOT))
    assert words == texts(whole)
    assert ends == [choice["finish_reason"] for choice in whole.json["choices"]]
    assert [choice["index"] for choice in whole.json["choices"]] == [0, 1, 2]


def test_a_stream_of_several_ends_with_one_usage(worker):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = worker.chat("Hello", n=2, seed=5, **HOT, **options).chunks
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 32
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_completions_give_several_too(worker):
    body = {"model": "m", "prompt": "Hello", "n": 3, "seed": 5, **HOT}
    several = worker.post("/v1/completions", body).json["choices"]
    single = [
        worker.post("/v1/completions", {**body, "n": 1, "seed": seed}).json["choices"][0]["text"] for seed in (5, 6, 7)
    ]
    assert [choice["text"] for choice in several] == single
    assert [choice["index"] for choice in several] == [0, 1, 2]


def test_many_clients_get_what_each_gets_alone(worker):
    def ask(number):
        return texts(worker.chat(f"Hello {number % 5}", n=1 + number % 3, seed=number, **HOT))

    alone = [ask(number) for number in range(24)]
    with ThreadPoolExecutor(12) as clients:
        assert list(clients.map(ask, range(24))) == alone


# Stop strings


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_only_its_own_answer(worker, stream):
    """The string has several letters, and each letter is a token: it always lies across borders."""
    plain = texts(worker.chat("Hello", n=3, seed=20, **HOT))
    stop = plain[1][4:8]
    assert len(stop) == 4
    wanted = [text.partition(stop)[0] for text in plain]
    reply = worker.chat("Hello", n=3, seed=20, stop=stop, stream=stream, **HOT)
    if stream:
        words, ends = streamed(reply)
    else:
        words, ends = texts(reply), [choice["finish_reason"] for choice in reply.json["choices"]]
    assert words == wanted
    assert ends == ["stop" if stop in text else "length" for text in plain]


# Probabilities


def whole_chances(reply):
    assert reply.status == 200, reply.body
    return reply.json["choices"][0]["logprobs"]["content"]


def test_probabilities_belong_to_the_tokens_of_the_answer(worker):
    reply = worker.chat("Hello", temperature=0, max_tokens=12, logprobs=True, top_logprobs=4)
    chances = whole_chances(reply)
    assert len(chances) == 12
    for chance in chances:
        likeliest = chance["top_logprobs"]
        assert len(likeliest) == 4
        assert chance["logprob"] == max(entry["logprob"] for entry in likeliest) == likeliest[0]["logprob"]
        assert chance["token"] == likeliest[0]["token"], "greedy takes the likeliest"
        assert sum(math.exp(entry["logprob"]) for entry in likeliest) <= 1 + 1e-6
        shown = "".join(f"\\x{byte:02x}" for byte in chance["bytes"])
        assert chance["token"] in (bytes(chance["bytes"]).decode(errors="replace"), f"bytes:{shown}")
    spelled = b"".join(bytes(chance["bytes"]) for chance in chances)
    assert spelled.decode(errors="replace") == reply.json["choices"][0]["message"]["content"]


def test_they_are_those_of_the_model_itself(worker, family, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(family.base).eval()
    messages = [{"role": "user", "content": "Hello"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    with torch.inference_mode():
        likeliest = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).topk(5)
    first = whole_chances(worker.chat(messages, temperature=0, max_tokens=1, logprobs=True, top_logprobs=5))[0]
    assert [entry["logprob"] for entry in first["top_logprobs"]] == pytest.approx(likeliest.values.tolist(), abs=1e-4)
    wanted = [tokenizer.decode([n]) for n in likeliest.indices]
    told = [entry["token"] for entry in first["top_logprobs"]]
    assert all(text == want or "\ufffd" in want for text, want in zip(told, wanted, strict=True))
    assert len(set(told)) == 5


def test_a_stream_tells_the_same_probabilities(worker):
    options = {"temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
    whole = whole_chances(worker.chat("Hello", **options))
    chunks = worker.chat("Hello", stream=True, **options).chunks
    told = [
        chance
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["logprobs"]
        for chance in choice["logprobs"]["content"]
    ]
    assert [chance["token"] for chance in told] == [chance["token"] for chance in whole]
    assert [chance["logprob"] for chance in told] == pytest.approx([chance["logprob"] for chance in whole], abs=1e-5)


def test_each_of_several_answers_has_its_own_probabilities(worker):
    reply = worker.chat("Hello", n=2, seed=3, logprobs=True, **HOT)
    for choice in reply.json["choices"]:
        assert "".join(chance["token"] for chance in choice["logprobs"]["content"]).strip("\ufffd")
        assert len(choice["logprobs"]["content"]) == 16
        assert all(chance["top_logprobs"] == [] for chance in choice["logprobs"]["content"])


def test_completions_tell_them_in_lists(worker):
    body = {"model": "m", "prompt": "Hello", "temperature": 0, "max_tokens": 8, "logprobs": 2}
    chances = worker.post("/v1/completions", body).json["choices"][0]["logprobs"]
    assert len(chances["tokens"]) == len(chances["token_logprobs"]) == len(chances["text_offset"]) == 8
    assert chances["text_offset"][0] == 0
    assert chances["text_offset"] == sorted(chances["text_offset"])
    assert all(len(likeliest) == 2 for likeliest in chances["top_logprobs"])


def test_without_the_wish_there_are_none(worker):
    assert worker.chat("Hello", max_tokens=2).json["choices"][0]["logprobs"] is None


# The end token


def test_ignore_eos_goes_on_to_max_tokens(worker, tokenizer):
    """A bias makes the end token the likeliest at once."""
    bias = {str(tokenizer.eos_token_id): 100}
    ended = worker.chat("Hello", temperature=0, max_tokens=9, logit_bias=bias).json
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["choices"][0]["message"]["content"] == ""
    assert ended["usage"]["completion_tokens"] == 1
    ignored = worker.chat("Hello", temperature=0, max_tokens=9, logit_bias=bias, ignore_eos=True).json
    assert ignored["choices"][0]["finish_reason"] == "length"
    assert ignored["usage"]["completion_tokens"] == 9
