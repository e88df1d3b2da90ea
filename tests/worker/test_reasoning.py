"""Reasoning told apart from the answer, in text that comes in pieces, and through a worker's HTTP."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worker.tool_parsers.reading import cut, read

from bainmarie_worker.answer_format import ends, markers, parser_for
from bainmarie_worker.messages import read_messages
from bainmarie_worker.reading import Outcome
from bainmarie_worker.replies import ChatReply
from bainmarie_worker.template_ways import fitted
from bainmarie_worker.tokenizer import TransformersTokenizer
from bainmarie_worker.tool_parsers import Reasoning, Schemas, Text

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}}]
THINK = "{{ '<think>' + x + '</think>' }} <tool_call>"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
HARMONY = "<|start|>assistant<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>Let me <see>.<|end|><|start|>assistant"


def parser(template=THINK, prompt="", tools=TOOLS, inline=False):
    return parser_for(template, prompt, Schemas(tools), inline=inline)


ANSWERS = [
    (THINK, "", f"<think>\nLet me <see>.\n</think>\n\nSo: {CALL}", "So:"),
    (THINK, "x<think>\n", f"Let me <see>.\n</think>\n\nSo: {CALL}", "So:"),
    (THINK, "", f"\n<think>Let me <see>.</think>{CALL}", ""),
    ("[THINK]...[/THINK] [TOOL_CALLS]", "", '[THINK]Let me <see>.[/THINK]So:[TOOL_CALLS]add[ARGS]{"a": 1}', "So:"),
    (
        "<|channel>thought\n<channel|> <|tool_call>",
        "",
        "<|channel>thought\nLet me <see>.\n<channel|><|tool_call>call:add{a:1}<tool_call|>",
        "",
    ),
    (HARMONY, "", f'{ANALYSIS}<|channel|>commentary to=functions.add <|constrain|>json<|message|>{{"a": 1}}', ""),
    (
        HARMONY,
        "",
        f"{ANALYSIS}<|channel|>commentary<|message|>So:<|end|><|start|>assistant to=functions.add<|channel|>commentary"
        ' <|constrain|>json<|message|>{"a": 1}<|call|>',
        "So:",
    ),
]


@pytest.mark.parametrize(("template", "prompt", "text", "words"), ANSWERS)
@given(places=st.lists(st.integers(0, 400)))
def test_reasoning_words_and_calls_however_the_text_is_cut(template, prompt, text, words, places):
    expected = (words, "Let me <see>.", [("add", '{"a": 1}')])
    assert read(parser(template, prompt), *text) == expected
    assert read(parser(template, prompt), *cut(text, places)) == expected


def test_reasoning_streams_without_the_white_space_around_it():
    one = parser(prompt="<think>\n")
    assert one.feed("\nOne") == [Reasoning("One")]
    assert one.feed(" two\n") == [Reasoning(" two")]
    assert one.feed("\nthree </thin") == [Reasoning("\n\nthree")]
    assert one.feed("gs> </think>\n\n") == [Reasoning(" </things>")]
    assert one.feed(" four") == [Text("four")]
    assert one.finish() == []


@pytest.mark.parametrize(
    ("text", "words", "reasoning"),
    [
        ("No thoughts, but <think> and </think> later.", "No thoughts, but <think> and </think> later.", ""),
        ("<think>\n\n</think>\n\nAt once.", "At once.", ""),
        ("<think>never en", "", "never en"),
        ("<think>never ended </thi", "", "never ended </thi"),
        ("<think>only</think>\n", "", "only"),
        ("<thi", "<thi", ""),
        (" \n", " \n", ""),
        (f"<think>{CALL}</think>", "", CALL),
    ],
)
def test_what_is_reasoning_and_what_is_not(text, words, reasoning):
    assert read(parser(), text) == read(parser(), *text) == (words, reasoning, [])


def test_a_template_that_knows_no_reasoning_leaves_it_in_the_text():
    assert read(parser("<tool_call>"), f"<think>x</think>{CALL}")[:2] == ("<think>x</think>", "")
    assert parser("nothing") is None
    assert parser("<tool_call>", tools=[]) is None


@pytest.mark.parametrize("text", [f" <think>\n{CALL}\n</think>\n\nSo.", f"<think>\n{CALL}", "So.", "<thi"])
def test_inline_reasoning_stays_as_it_was_written(text):
    assert read(parser(inline=True), text) == read(parser(inline=True), *text) == (text, "", [])


def test_harmony_without_tools_or_split():
    text = f"{ANALYSIS}<|channel|>final<|message|>So."
    assert read(parser(HARMONY, tools=[]), *text) == ("So.", "Let me <see>.", [])
    inline = read(parser(HARMONY, inline=True), *text)
    assert inline == ("<|channel|>analysis<|message|>Let me <see>.So.", "", [])
    call = "<|channel|>commentary to=functions.add<|message|>{}<|call|>"
    assert read(parser(HARMONY, tools=[]), *call) == ("{}", "", [])
    assert read(parser(HARMONY), ANALYSIS + "<|channel|>fin") == ("", "Let me <see>.", [])


def test_tokens_that_are_kept_and_tokens_that_end():
    assert {"<think>", "</think>", "<tool_call>"} <= markers(THINK)
    assert "<|channel|>" not in markers(THINK)
    assert {"<|channel|>", "<|message|>", "<|end|>"} <= markers(HARMONY)
    assert ends(HARMONY) == {"<|call|>", "<|return|>"}
    assert ends(THINK) == ends("") == markers("") == frozenset()


SCRIPT = [
    {"reasoning": "Two numbers.", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
    {"reasoning": "Done.", "content": "It is 3."},
]


@pytest.fixture(scope="module")
def thinker(start_session_worker):
    from bainmarie_protocol import Failed, Ready

    worker = start_session_worker("nowhere", engine="fake", options={"script": SCRIPT})
    worker.until(Ready, Failed)
    return worker


def test_a_chat_answer_has_its_reasoning_beside_the_content(thinker):
    choice = thinker.chat("Add.", tools=TOOLS).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning_content"] == "Two numbers."
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    chunks = thinker.chat([{"role": "user", "content": "Add."}, {"role": "assistant"}], stream=True).chunks
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Done."
    assert "".join(delta.get("content", "") for delta in deltas) == "It is 3."


def test_an_answer_that_ends_in_its_reasoning_has_no_content(thinker):
    choice = thinker.chat("Add.", tools=TOOLS, max_tokens=2).json["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"] == {"role": "assistant", "content": "", "reasoning_content": "Two"}


def test_reasoning_stays_inline_on_request_and_in_raw_completions(thinker):
    messages = [{"role": "user", "content": "Add."}, {"role": "assistant"}]
    assert thinker.text(messages, reasoning_format="none") == "<think>\nDone.\n</think>\n\nIt is 3."
    raw = thinker.post("/v1/completions", {"model": thinker.config.name, "prompt": "<think>x</think>y"}).json
    assert raw["choices"][0]["text"] == "<think>x</think>y"
    assert thinker.chat("x", reasoning_format="raw").json["error"]["param"] == "reasoning_format"


THINKING = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}
{%- for call in message.tool_calls or [] %}

<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% endif %}"""
ASKED = [{"role": "user", "content": "Tell me about the sea."}]


@pytest.mark.parametrize("written", ["Two numbers.\n</think>\n\nSo:\n" + CALL, "Hm.\n\nYes.\n</think>\n\nIt is 3."])
def test_an_answer_that_comes_back_is_the_text_that_the_model_wrote(tokenizer, written):
    """So that its tokens are known, and nothing of it is computed again."""
    wrapped = TransformersTokenizer(tokenizer, THINKING)
    prompt = wrapped.render(ASKED, TOOLS)
    reply = ChatReply(0)
    reading = parser_for(THINKING, prompt, Schemas(TOOLS), inline=False)
    for delta in [*reading.feed(written), *reading.finish()]:
        reply.add(delta)
    message = reply.whole(Outcome("stop", 1, 1, 0))["message"]
    assert message["reasoning_content"]
    again = list(read_messages([*ASKED, message, {"role": "user", "content": "And then?"}]))
    assert wrapped.render(fitted(again, THINKING), TOOLS).startswith(prompt + written + "<|im_end|>")


def test_a_prompt_that_opens_the_mark_and_one_that_does_not(start_worker, family):
    """A model this small never closes it: what it writes is all reasoning."""
    from bainmarie_protocol import Ready, ServedModel

    worker = start_worker(family.base, ServedModel("m", chat_template=THINKING), device="cpu")
    worker.until(Ready)
    first = worker.chat(ASKED, max_tokens=20, temperature=0).json
    answer = first["choices"][0]["message"]
    assert answer["content"] == ""
    assert len(answer["reasoning_content"]) > 5
    for fields in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        plain = worker.chat(ASKED, max_tokens=20, temperature=0, **fields).json
        assert "reasoning_content" not in plain["choices"][0]["message"]
        assert plain["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"] - len("<think>\n")
