from __future__ import annotations

from dataclasses import replace

import pytest

from bainmarie.agent.policy import Rule, decide
from bainmarie.agent.tools.tool import Tool
from bainmarie.store.approvals import Grant

TOOL = Tool("read_file", "Read.", {"type": "object"})
GRANT = Grant("read_file", TOOL.definition_hash)


@pytest.mark.parametrize(
    ("rules", "default", "expected"),
    [
        ((), "ask", "ask"),
        ((), "allow", "allow"),
        ((), "deny", "deny"),
        ((Rule("read_file", "allow"),), "deny", "allow"),
        ((Rule("read_*", "allow"),), "ask", "allow"),
        ((Rule("write_*", "deny"),), "ask", "ask"),
        ((Rule("read_file", "allow"), Rule("*", "ask")), "allow", "ask"),
        ((Rule("read_file", "allow"), Rule("*", "ask"), Rule("read*", "deny")), "allow", "deny"),
        ((Rule("READ_FILE", "deny"),), "allow", "allow"),
    ],
)
def test_deny_beats_ask_beats_allow_beats_the_default(rules, default, expected):
    assert decide(TOOL, rules, (), default) == expected
    assert decide(TOOL, rules[::-1], (), default) == expected


def test_a_grant_answers_a_question_and_nothing_else():
    assert decide(TOOL, (), [GRANT], "ask") == "allow"
    assert decide(TOOL, [Rule("*", "ask")], [GRANT], "deny") == "allow"
    assert decide(TOOL, (), [GRANT], "deny") == "deny"
    assert decide(TOOL, [Rule("*", "deny")], [GRANT], "ask") == "deny"


@pytest.mark.parametrize(
    "change",
    [{"description": "Read!"}, {"parameters": {"type": "object", "properties": {}}}, {"idempotent": True}],
)
def test_a_grant_ends_when_the_definition_changes(change):
    assert decide(replace(TOOL, **change), (), [GRANT], "ask") == "ask"


def test_a_grant_is_for_one_tool():
    assert decide(replace(TOOL, name="other"), (), [GRANT], "ask") == "ask"
