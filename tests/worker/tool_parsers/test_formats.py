"""Each format as its models write it, each chosen by what a template that teaches it says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worker.tool_parsers.reading import cut, read

from bainmarie_worker.tool_parsers import CallArguments, CallStart, Schemas, Text, format_of, parser_for

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer"},
                    "b": {"type": "number"},
                    "text": {"type": "string"},
                    "on": {"type": "boolean"},
                    "items": {"type": "array"},
                    "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "place": {"$ref": "#/$defs/place"},
                },
                "$defs": {"place": {"type": "object"}},
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
FIRST, SECOND = ("add", {"a": 1, "text": "5"}), ("now", {})
CALLS = [FIRST, SECOND]
ADD = '{"a": 1, "text": "5"}'

XML = "<tool_call>\n<function={}>\n<parameter=k>\nv\n</parameter>\n</function>\n</tool_call>"
GLM = "<tool_call>{{name}}\n<arg_key>{{k}}</arg_key>\n<arg_value>{{v}}</arg_value></tool_call>"
DEEPSEEK = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>...<｜tool▁sep｜>"
KIMI = "<|tool_calls_section_begin|><|tool_call_begin|>{{id}}<|tool_call_argument_begin|>"
HARMONY = "<|start|>assistant<|channel|>final<|message|>"

FORMATS = {
    "qwen3-coder": (
        "functions",
        XML,
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=text>\n5\n</parameter>\n</function>\n"
        "</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
    ),
    "qwen3-coder without its outer tag": (
        "functions",
        XML,
        "<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=text>\n5\n</parameter>\n</function>\n</tool_call>\n"
        "<function=now></function>",
    ),
    "qwen3-coder without closing tags": (
        "functions",
        XML,
        "<tool_call><function=add><parameter=a>1\n<parameter=text>\n5\n</function></tool_call>"
        "<tool_call><function=now></tool_call>",
    ),
    "qwen3-coder that falls back to json": (
        "functions",
        XML,
        f'<tool_call>{{"name": "add", "arguments": {ADD}}}</tool_call>'
        "<tool_call><function=now>{}</function></tool_call>",
    ),
    "seed-oss": (
        "functions",
        "<seed:tool_call>\n<function=name>\n<parameter=k>v</parameter></function></seed:tool_call>",
        "<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n<parameter=text>5</parameter>\n</function>\n"
        "<function=now>\n</function>\n</seed:tool_call>",
    ),
    "glm-4.5": (
        "glm",
        GLM,
        "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>text</arg_key>\n"
        "<arg_value>5</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
    ),
    "glm-4.7": (
        "glm",
        GLM,
        "<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value><arg_key>text</arg_key><arg_value>5</arg_value>"
        "</tool_call><tool_call>now</tool_call>",
    ),
    "gpt-oss": (
        "harmony",
        HARMONY,
        f"<|channel|>commentary to=functions.add <|constrain|>json<|message|>{ADD}<|call|>"
        "<|start|>assistant to=functions.now<|channel|>commentary json<|message|><|call|>",
    ),
    "mistral, old": (
        "mistral",
        "[TOOL_CALLS][...]",
        f'[TOOL_CALLS] [{{"name": "add", "arguments": {ADD}}}, {{"name": "now", "arguments": {{}}}}]',
    ),
    "mistral, new": ("mistral", "[TOOL_CALLS][ARGS]", f"[TOOL_CALLS]add[ARGS]{ADD}[TOOL_CALLS]now[ARGS]{{}}"),
    "mistral small": ("mistral", "[TOOL_CALLS]", f"[TOOL_CALLS]add[CALL_ID]000000001[ARGS]{ADD}[TOOL_CALLS]now{{}}"),
    "deepseek v3": (
        "deepseek",
        DEEPSEEK,
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{ADD}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "deepseek v3.1": (
        "deepseek",
        DEEPSEEK,
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{ADD}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "deepseek v3.2": (
        "invoke",
        "<｜DSML｜function_calls>",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="add">\n'
        '<｜DSML｜parameter name="a" string="false">1</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="text" string="true">5</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    ),
    "kimi k2": (
        "kimi",
        KIMI,
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{ADD}<|tool_call_end|>"
        "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "minimax m2": (
        "invoke",
        "{%- set toolcall_begin_token = '<minimax:tool_call>' -%}",
        '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n'
        '<parameter name="text">5</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
    ),
    "lfm2": (
        "pythonic",
        "List of tools: [{{ tools }}]",
        '<|tool_call_start|>[add(a=1, text="5"), now()]<|tool_call_end|>',
    ),
    "olmo 3": ("pythonic", "<function_calls>", '<function_calls>add(a=1, text="5")\nnow()</function_calls>'),
    "gemma 4": (
        "gemma",
        "<|tool_call>call:{{ name }}",
        '<|tool_call>call:add{a:1,text:<|"|>5<|"|>}<tool_call|><|tool_call>call:now{}<tool_call|>',
    ),
    "functiongemma": (
        "gemma",
        "<start_function_call>call:{{ name }}",
        "<start_function_call>call:add{a:1,text:<escape>5<escape>}<end_function_call>"
        "<start_function_call>call:now{}<end_function_call>",
    ),
    "granite 3": (
        "json_tags",
        "<|tool_call|>",
        f'<|tool_call|>[{{"name": "add", "arguments": {ADD}}}, {{"name": "now", "arguments": {{}}}}]',
    ),
    "phi-4-mini": (
        "json_tags",
        "<|tool|>{{ tools }}<|/tool|>",
        f'<|tool_call|>[{{"type": "function", "function": {{"name": "add", "arguments": {ADD}}}}}, {{"name": "now"}}]'
        "<|/tool_call|>",
    ),
    "jamba": (
        "json_tags",
        "<tool_calls>",
        f'<tool_calls>[\n{{"name": "add", "arguments": {ADD}}},\n{{"name": "now", "arguments": {{}}}}\n]</tool_calls>',
    ),
    "command": (
        "json_tags",
        "<|START_ACTION|>",
        f'<|START_ACTION|>[\n{{"tool_call_id": "0", "tool_name": "add", "parameters": {ADD}}},\n'
        '{"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
    ),
    "nemotron nano 2": (
        "json_tags",
        "<TOOLCALL>",
        f'<TOOLCALL>[{{"name": "add", "arguments": {ADD}}}, {{"name": "now", "arguments": {{}}}}]</TOOLCALL>',
    ),
    "hermes": (
        "hermes",
        "<tool_call>",
        f'<tool_call>{{"name": "add", "arguments": {ADD}}}</tool_call>\n<tool_call>\n{{"name": "now"}}\n</tool_call>',
    ),
    "llama 3": (
        "llama",
        "<|python_tag|>",
        f'{{"name": "add", "parameters": {ADD}}}; {{"name": "now", "parameters": {{}}}}',
    ),
    "llama 4": ("llama4", "[func_name1(params_name1=params_value1)]", '[add(a=1, text="5"), now()]'),
}
WITH_WORDS = {name: FORMATS[name] for name in FORMATS if name not in ("gpt-oss", "llama 3", "llama 4")}
every = pytest.mark.parametrize(("module", "template", "text"), FORMATS.values(), ids=FORMATS)


def decoded(calls):
    return [(name, json.loads(arguments)) for name, arguments in calls]


def parser(template):
    return parser_for(template, Schemas(TOOLS))


@every
def test_the_template_tells_the_format(module, template, text):
    assert format_of(template).__name__.rpartition(".")[2] == module


@every
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_two_calls_however_the_text_is_cut(module, template, text, size):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    words, reasoning, calls = read(parser(template), *pieces)
    assert (words, reasoning) == ("", "")
    assert decoded(calls) == CALLS


@every
@given(places=st.lists(st.integers(0, 2000)))
def test_two_calls_cut_anywhere(module, template, text, places):
    assert decoded(read(parser(template), *cut(text, places))[2]) == CALLS


@pytest.mark.parametrize(("module", "template", "text"), WITH_WORDS.values(), ids=WITH_WORDS)
def test_words_before_calls_stream_and_stay(module, template, text):
    one = parser(template)
    assert one.feed("3 < 4 [so") == [Text("3 < 4 [so")]
    assert read(one, " it ", "is.\n\n", text)[0] == " it is."
    assert read(parser(template), *"Nothing < to [call]. \n")[0] == "Nothing < to [call]. \n"


@every
def test_the_first_name_is_told_as_soon_as_its_call_has_begun(module, template, text):
    if module in ("llama", "llama4"):
        return
    one = parser(template)
    end = text.index("add") + len("add") + len('", "arguments": {"a": 1}<|constrain|>json<|message|>')
    told = [delta for char in text[:end] for delta in one.feed(char)]
    assert told[0] == CallStart(0, "add")


@given(
    st.lists(st.sampled_from([*"<>{}[]()\"'\\,:=\n x1", "</", "null", "add", "now", "arguments"]), max_size=12),
    st.data(),
)
def test_whatever_is_written_nothing_is_raised_and_cuts_change_nothing(signs, data):
    """Parts of real calls, in any order."""
    name = data.draw(st.sampled_from(list(FORMATS)))
    _, template, text = FORMATS[name]
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=4))
    pieces = cut(text, places)
    mixed = "".join(data.draw(st.permutations([*pieces, *signs])))
    assert read(parser(template), mixed) == read(parser(template), *mixed)


@every
@given(end=st.integers(0, 2000))
def test_a_call_that_is_cut_off_is_never_taken_for_another(module, template, text, end):
    """Its arguments are what they were meant to be, or broken, or lack what had not begun."""
    _, _, calls = read(parser(template), text[: end % len(text)])
    for number, (name, arguments) in enumerate(calls):
        meant, values = CALLS[number]
        assert name == meant
        try:
            told = json.loads(arguments)
        except ValueError:
            continue
        assert told.items() <= values.items()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (XML, "<tool_call>\nno call\n</tool_call>"),
        (XML, "a  <tool_call><function=></function></tool_call> b"),
        (XML, "in <function=unknown> there is </function>"),
        (XML, "</tool_call> alone"),
        (GLM, "<tool_call>no call at all</tool_call>"),
        (GLM, "<tool_call></tool_call>"),
        ("[TOOL_CALLS]", "so [TOOL_CALLS] no, nothing"),
        (DEEPSEEK, "<｜tool▁calls▁begin｜>none<｜tool▁calls▁end｜>"),
        (KIMI, "<|tool_calls_section_begin|>none<|tool_calls_section_end|>"),
        ("<minimax:tool_call>", "<minimax:tool_call><invoke nme='f'></minimax:tool_call>"),
        ("<function_calls>", "<function_calls>no call</function_calls>"),
        ("<function_calls>", "<function_calls>x = f(1)</function_calls>"),
        ("<|tool_call>", "<|tool_call>called add<tool_call|>"),
        ("<|tool_call|>", "<|tool_call|>[1, 2]<|/tool_call|>"),
        ("[func_name1(", "[see](https://example.com/)"),
        ("[func_name1(", "[1, 2, 3]"),
        ("[func_name1(", "[add(1) is a sum"),
        (HARMONY, "no header at all, assistant <b>"),
        (HARMONY, "assistant to nobody"),
    ],
)
def test_what_is_no_call_stays_text(template, text):
    assert read(parser(template), text) == read(parser(template), *text) == (text, "", [])


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        ("a", "7", 7),
        ("a", "7.0", 7),
        ("a", "seven", "seven"),
        ("a", "7.5", "7.5"),
        ("a", "true", "true"),
        ("b", "7", 7),
        ("b", "1e3", 1000.0),
        ("b", "NaN", "NaN"),
        ("b", "1e999", "1e999"),
        ("text", "7", "7"),
        ("text", "null", "null"),
        ("text", "  two\n lines ", "  two\n lines "),
        ("text", "\n\n", "\n\n"),
        ("text", "", ""),
        ("text", '{"x": 1}', '{"x": 1}'),
        ("text", "a </parameter> b </function> c", "a </parameter> b </function> c"),
        ("text", "\ud800", "\ud800"),
        ("on", "true", True),
        ("on", "False", False),
        ("on", "1", "1"),
        ("items", '[1, "two"]', [1, "two"]),
        ("items", "['it''s', None]", ["its", None]),
        ("items", '{"no": "list"}', '{"no": "list"}'),
        ("place", '{"x": {"y": null}}', {"x": {"y": None}}),
        ("place", "{'x': True}", {"x": True}),
        ("place", "{'x': {1, 2}}", "{'x': {1, 2}}"),
        ("maybe", "null", None),
        ("maybe", "None", None),
        ("maybe", "3", 3),
        ("unknown", "3", 3),
        ("unknown", "three", "three"),
    ],
)
def test_a_bare_value_is_what_the_schema_says(parameter, text, value):
    call = f"<tool_call><function=add><parameter={parameter}>\n{text}\n</parameter></function></tool_call>"
    calls = read(parser(XML), *call)[2]
    assert decoded(calls) == [("add", {parameter: value})]
    calls[0][1].encode()


def test_a_value_that_was_cut_off_is_no_json():
    head = "<tool_call><function=add>\n<parameter=a>\n1\n</parameter>\n"
    assert read(parser(XML), head + "<parameter=text>\nrm -r /tmp")[2] == [("add", '{"a": 1, "text": "\\nrm -r /tmp')]
    assert read(parser(XML), head)[2] == [("add", '{"a": 1')]
    assert decoded(read(parser(XML), head + "</function>")[2]) == [("add", {"a": 1})]
    glm = "<tool_call>add\n<arg_key>text</arg_key>\n<arg_value>rm -r /tmp"
    assert read(parser(GLM), glm)[2] == [("add", '{"text": "rm -r /tmp')]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("[add(1, 2.5, text='x')]", {"a": 1, "b": 2.5, "text": "x"}),
        ("[add(a=-1, on=true, maybe=null, items=(1, [2]))]", {"a": -1, "on": True, "maybe": None, "items": [1, [2]]}),
        ("[add(text='a\\'b\\n', place={'x': 'y)]'})]", {"text": "a'b\n", "place": {"x": "y)]"}}),
        ('[{"name": "add", "arguments": {"a": 1}}]', {"a": 1}),
    ],
)
def test_python_is_read_not_run(text, arguments):
    text = f"<|tool_call_start|>{text}<|tool_call_end|>"
    assert decoded(read(parser("<|tool_call_start|>"), *text)[2]) == [("add", arguments)]


@pytest.mark.parametrize("written", ["a=f(1))]", "*a)]", "a=1, a=2)]", "a=1", "**{})]", "1, 2, 3, 4, 5, 6, 7, 8)]"])
def test_python_that_is_more_than_values_reaches_the_caller_as_it_is(written):
    text = f"<|tool_call_start|>[add({written}<|tool_call_end|>"
    assert read(parser("<|tool_call_start|>"), *text) == ("", "", [("add", written)])


def test_gemma_nests_and_takes_signs_inside_strings():
    text = '<|tool_call>call:add{items:[1,<|"|>a},{b<|"|>,{x:true,y:[]}],text:7,place:{<|"|>k<|"|>:None}}<tool_call|>'
    values = {"items": [1, "a},{b", {"x": True, "y": []}], "text": "7", "place": {"k": None}}
    assert decoded(read(parser("<|tool_call>"), *text)[2]) == [("add", values)]
    broken = "<|tool_call>call:add{a 1}<tool_call|>"
    assert read(parser("<|tool_call>"), broken)[2] == [("add", "{a 1}")]


@pytest.mark.parametrize("text", ["[TOOL_CALLS]add[ARGS]{broken", "<|channel|>x to=add<|message|>{broken<|call|>"])
def test_broken_arguments_reach_the_caller(text):
    template = HARMONY if text.startswith("<") else "[TOOL_CALLS]"
    assert read(parser(template), *text) == ("", "", [("add", "{broken")])


def test_arguments_of_a_json_call_are_told_before_the_tag_closes():
    one = parser("<tool_calls>")
    assert one.feed('<tool_calls>[{"name": "now"}') == [CallStart(0, "now"), CallArguments(0, "{}")]
    assert one.feed(', {"name": "add", "ar') == [CallStart(1, "add")]


def test_an_unknown_template_has_no_format():
    assert format_of("{% for message in messages %}{{ message.content }}{% endfor %}") is None
