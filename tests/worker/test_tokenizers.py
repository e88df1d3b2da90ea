"""Which tokenizer and which chat template a model name speaks."""

from __future__ import annotations

import json
import shutil

import pytest

from bainmarie_protocol import ServedModel, WorkerConfig
from bainmarie_worker.errors import LoadError, RequestError
from bainmarie_worker.loading import load
from bainmarie_worker.tokenizer import TransformersTokenizer
from bainmarie_worker.tokenizer_loading import load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def copy(family, tmp_path):
    shutil.copytree(family.base, tmp_path / "copy")
    return tmp_path / "copy"


def plain_load(model, *served, **fields):
    config = WorkerConfig("m", "transformers", str(model), served, **{"device": "cpu", **fields})
    return load(config, lambda step: None)


def without_tokenizer(directory):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        (directory / name).unlink(missing_ok=True)


def test_the_base_gives_what_a_merge_lacks(copy, family):
    without_tokenizer(copy)
    (copy / "config.json").unlink()
    loaded = plain_load(copy, base=str(family.base))
    assert loaded.tokenizer.template
    assert loaded.tokenizer.encode("Hi", special=False) == [39, 72]
    assert loaded.end_ids == plain_load(family.base).end_ids


def test_no_tokenizer_anywhere_names_the_files(copy):
    without_tokenizer(copy)
    with pytest.raises(LoadError, match=r"no tokenizer: none of tokenizer\.json") as raised:
        plain_load(copy)
    assert raised.value.code == "model_incomplete"


def test_a_missing_pad_token_is_the_end_token(copy):
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    (copy / "special_tokens_map.json").unlink(missing_ok=True)
    tokenizer = load_tokenizer(str(copy), False)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"


def test_a_tokenizer_that_exists_only_in_the_slow_kind(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "a": 1, "b": 2, "<pad>": 3, "</s>": 4}))
    settings = {"tokenizer_class": "CTRLTokenizer", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = load_tokenizer(str(tmp_path), False)
    assert not tokenizer.is_fast


def test_no_second_begin_token_where_the_text_has_one(tokenizer):
    from tokenizers import processors

    fast = load_fast_with_begin(tokenizer, processors)
    begin = fast.bos_token_id
    wrapped = TransformersTokenizer(fast)
    assert wrapped.encode("a", special=True)[:2] == [begin, *fast.encode("a", add_special_tokens=False)]
    assert wrapped.encode(f"{fast.bos_token}a", special=True).count(begin) == 1
    assert wrapped.encode(wrapped.render(HELLO, None), special=False)[:2].count(begin) == 1


def load_fast_with_begin(tokenizer, processors):
    import copy as copying

    fast = copying.deepcopy(tokenizer)
    begin = ("<|im_start|>", fast.bos_token_id)
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[begin])
    return fast


@pytest.mark.parametrize("in_file", [True, False])
def test_a_chat_template_from_the_configuration(family, tmp_path, in_file):
    text = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    (tmp_path / "own.jinja").write_text(text)
    served = ServedModel("own", chat_template=str(tmp_path / "own.jinja") if in_file else text)
    loaded = plain_load(family.base, ServedModel("m"), served)
    assert loaded.tokenizer.of(served).render(HELLO, None) == "[Hello]"
    assert loaded.tokenizer.of(ServedModel("m")) is loaded.tokenizer
    assert "[Hello]" not in loaded.tokenizer.render(HELLO, None)


def test_a_tokenizer_that_needs_no_files(family, tmp_path):
    shutil.copytree(family.base, tmp_path / "bytes", ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    with pytest.raises(LoadError, match="bytes has no tokenizer"):
        plain_load(tmp_path / "bytes")
    settings = {"tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (tmp_path / "bytes" / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = plain_load(tmp_path / "bytes").tokenizer
    assert tokenizer.encode("hi", special=False) == [ord("h") + 3, ord("i") + 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"\xff\xfe{{", "decode"),
        (b"{{ messages }}\n{% for %}", "line 2"),
    ],
)
def test_a_template_that_is_broken_fails_its_own_name_alone(family, tmp_path, content, said):
    file = tmp_path / "own.jinja"
    if content is not None:
        file.write_bytes(content)
    served = ServedModel("own", chat_template=str(file))
    loaded = plain_load(family.base, ServedModel("m"), served)
    assert "Hello" in loaded.tokenizer.of(ServedModel("m")).render(HELLO, None)
    with pytest.raises(RequestError, match=r"own\.jinja") as raised:
        loaded.tokenizer.of(served)
    assert (raised.value.status, raised.value.code) == (503, "model_incomplete")
    assert said in raised.value.message
    assert "chat_template:" in raised.value.hint
    file.write_text("{{ messages[0].content }}")
    assert loaded.tokenizer.of(served).render(HELLO, None) == "Hello"


def test_a_template_that_only_refuses_a_conversation_is_not_broken(family):
    served = ServedModel("own", chat_template="{{ raise_exception('never') }}")
    with pytest.raises(RequestError, match="never") as raised:
        plain_load(family.base, served).tokenizer.of(served).render(HELLO, None)
    assert raised.value.status == 400


def test_a_template_from_the_models_own_jinja_file(copy):
    without_tokenizer_template(copy)
    assert not plain_load(copy).tokenizer.template
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert plain_load(copy).tokenizer.render(HELLO, None) == "Hello!"


def without_tokenizer_template(directory):
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def test_an_adapters_template_and_tokenizer_are_its_own(family, tmp_path, tokenizer):
    import copy as copying

    adapter = tmp_path / "adapter"
    shutil.copytree(family.adapter, adapter)
    loaded = plain_load(family.base)
    assert loaded.tokenizer.of(ServedModel("a", adapter=str(adapter))).render(HELLO, None) == loaded.tokenizer.render(
        HELLO, None
    )
    (adapter / "chat_template.jinja").write_text("<{{ messages[0].content }}>")
    with_template = ServedModel("b", adapter=str(adapter))
    assert plain_load(family.base).tokenizer.of(with_template).render(HELLO, None) == "<Hello>"
    other = copying.deepcopy(tokenizer)
    other.add_tokens(["Hello"])
    other.save_pretrained(adapter)
    own = plain_load(family.base).tokenizer.of(with_template)
    assert own.encode("Hello", special=False) == [len(other) - 1]
    assert len(loaded.tokenizer.encode("Hello", special=False)) == 5


def test_a_request_for_a_name_with_its_own_template(start_worker, family):
    from bainmarie_protocol import Ready

    names = ServedModel("m"), ServedModel("short", chat_template="{{ messages[0].content }}")
    worker = start_worker(family.base, *names, device="cpu")
    worker.until(Ready)
    usage = worker.chat("Hello", model="short", max_tokens=2).json["usage"]
    assert usage["prompt_tokens"] == 5
    assert worker.chat("Hello", max_tokens=2).json["usage"]["prompt_tokens"] > 5


def test_a_merge_without_tokenizer_keeps_its_own_template_file(copy, family):
    """It takes the base's tokenizer, and still speaks as it was trained to."""
    without_tokenizer(copy)
    (copy / "config.json").unlink()
    (copy / "chat_template.jinja").write_text("<{{ messages[0].content }}>")
    assert plain_load(copy, base=str(family.base)).tokenizer.render(HELLO, None) == "<Hello>"
    assert plain_load(family.base).tokenizer.render(HELLO, None) != "<Hello>"


def test_a_copy_of_the_bases_tokenizer_is_the_bases(family, tmp_path):
    """Also where only tokenizer.json was copied."""
    adapter = tmp_path / "adapter"
    shutil.copytree(family.adapter, adapter)
    tokenizer = plain_load(family.base).tokenizer
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(family.base / name, adapter)
        own = tokenizer.of(ServedModel(name, adapter=str(adapter)))
        assert own.ends == tokenizer.ends
        assert own.render(HELLO, None) == tokenizer.render(HELLO, None)
        tokenizer.forget(str(adapter))


def test_an_answer_ends_at_the_end_token_of_its_own_tokenizer(start_worker, family, tmp_path, tokenizer):
    """An adapter trained with another end token than its base's configuration names; a bias makes it the likeliest."""
    import copy as copying

    from bainmarie_protocol import Ready

    adapter = tmp_path / "adapter"
    shutil.copytree(family.adapter, adapter)
    other = copying.deepcopy(tokenizer)
    other.eos_token = "<tool_call>"
    other.save_pretrained(adapter)
    served = ServedModel("m"), ServedModel("own", adapter=str(adapter))
    worker = start_worker(family.base, *served, device="cpu")
    worker.until(Ready)
    fields = {"logit_bias": {str(other.eos_token_id): 100}, "max_tokens": 5, "temperature": 0}
    own, base = (worker.chat("Hello", model=name, **fields).json for name in ("own", "m"))
    assert (own["choices"][0]["finish_reason"], own["usage"]["completion_tokens"]) == ("stop", 1)
    assert (base["choices"][0]["finish_reason"], base["usage"]["completion_tokens"]) == ("length", 5)
    ignored = worker.chat("Hello", model="own", ignore_eos=True, **fields).json
    assert ignored["usage"]["completion_tokens"] == 5


def test_an_adapter_that_comes_again_is_read_again(start_worker, family, tmp_path):
    """Trained anew in the same directory, with another chat template."""
    from dataclasses import asdict

    from bainmarie_protocol import Ready

    adapter = tmp_path / "adapter"
    shutil.copytree(family.adapter, adapter)
    served = ServedModel("again", adapter=str(adapter))
    worker = start_worker(family.base, ServedModel("m"), device="cpu")
    worker.until(Ready)
    counted = []
    for template in ("{{ messages[0].content }}", "<<{{ messages[0].content }}>>"):
        (adapter / "chat_template.jinja").write_text(template)
        assert worker.post("/models/load", asdict(served)).status == 200
        counted.append(worker.chat("Hello", model="again", max_tokens=2).json["usage"]["prompt_tokens"])
        assert worker.post("/models/unload", {"name": "again"}).status == 200
    assert counted == [5, 9]


def test_settings_reach_the_template_and_cannot_take_its_place(tokenizer):
    wrapped = TransformersTokenizer(tokenizer, "{{ messages[0].content }}{{ enable_thinking }}{{ reasoning_effort }}")
    assert wrapped.render(HELLO, None, {"enable_thinking": False, "reasoning_effort": "low"}) == "HelloFalselow"
    with pytest.raises(RequestError, match="cannot set chat_template, tokenize") as raised:
        wrapped.render(HELLO, None, {"chat_template": "x", "tokenize": True})
    assert (raised.value.status, raised.value.param) == (400, "chat_template_kwargs")


def test_a_template_that_joins_arguments_to_text_gets_them_as_text(tokenizer):
    template = "{% for call in messages[0].tool_calls %}{{ '>' + call['function']['arguments'] }}{% endfor %}"
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    wrapped = TransformersTokenizer(tokenizer, template)
    assert wrapped.render([{"role": "assistant", "content": "", "tool_calls": [call]}], None) == '>{"a": 1}'


def test_special_tokens_of_the_templates_format_are_seen_or_end_the_answer(tokenizer):
    import copy as copying

    fast = copying.deepcopy(tokenizer)
    names = ["<|channel|>", "<|message|>", "<|call|>", "<|end|>"]
    fast.add_special_tokens({"additional_special_tokens": names})
    ids = fast.convert_tokens_to_ids(names)
    harmony = TransformersTokenizer(fast, "<|start|>assistant<|channel|>final<|message|>")
    assert harmony.decode(ids) == "".join(names)
    assert harmony.ends == {fast.eos_token_id, ids[2]}
    other = TransformersTokenizer(fast)
    assert other.decode(ids) == ""
    assert other.ends == {fast.eos_token_id}
