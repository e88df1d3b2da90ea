from __future__ import annotations

import pytest

from bainmarie.agent.tools.arguments import parse
from bainmarie.agent.tools.tool import Tool, ToolFailed

TOOL = Tool(
    "pick",
    "Pick.",
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}, "deep": {"type": "object"}},
        "required": ["name"],
    },
)


def test_good_arguments_come_back_as_they_are():
    assert parse(TOOL, '{"name": "ä", "count": 3}') == {"name": "ä", "count": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "pick needs the argument 'name'."),
        ("{}", "pick needs the argument 'name'."),
        ("{'name': 1}", "the arguments are not valid JSON"),
        ('{"name": "a"} {"name": "b"}', "the arguments are not valid JSON"),
        ('{"name": "a", "count": NaN}', "NaN is not JSON"),
        ('{"name": "a", "name": "b"}', "a key stands twice"),
        ('{"name": "a", "deep": {"x": 1, "x": 2}}', "a key stands twice"),
        ('["a"]', "the arguments are not a JSON object."),
        ('"a"', "the arguments are not a JSON object."),
        ('{"name": "a", "count": "3"}', "the arguments of pick are wrong: count:"),
        ('{"name": null}', "the arguments of pick are wrong: name:"),
        ('{"name": "a", "nmae": "b"}', "pick has no argument 'nmae'. Its arguments: name, count, deep."),
        ("[" * 100_000, "the arguments are not valid JSON"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(ToolFailed, match=said.replace("(", r"\(")):
        parse(TOOL, text)


def test_a_tool_may_take_arguments_that_it_does_not_name():
    free = Tool("free", "", {"type": "object", "additionalProperties": {"type": "integer"}})
    assert parse(free, '{"a": 1}') == {"a": 1}
    with pytest.raises(ToolFailed):
        parse(free, '{"a": "x"}')
    assert parse(Tool("none", "", {"type": "object"}), "") == {}
