from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_any
from hypothesis import strategies as st

from bainmarie.agent import history
from bainmarie.agent.items import (
    ApprovalDecided,
    ApprovalRequested,
    Item,
    Message,
    Reasoning,
    ToolCall,
    ToolResult,
    from_json,
    to_json,
)

TEXT = st.text('ab {}":1é\n', max_size=12)
STATUSES = ("success", "error", "denied", "interrupted")


def given(*strategies: Any) -> Callable[[Any], Any]:
    """Hypothesis' own, without a clock: a busy machine is no failure."""
    calm = settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    return lambda test: calm(given_any(*strategies)(test))


@st.composite
def conversations(draw: st.DrawFn) -> list[Item]:
    """Whole conversations: turns with any number of calls, answered in any order, approvals anywhere."""
    items: list[Item] = []
    for turn in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            items.append(Message("user", draw(TEXT)))
        if draw(st.booleans()):
            items.append(Reasoning(draw(TEXT), turn + 1))
        items.append(Message("assistant", draw(TEXT), turn + 1))
        count = draw(st.integers(0, 4))
        calls = [ToolCall(f"call_{turn}_{n}", "tool", draw(TEXT | st.just("{}")), turn + 1) for n in range(count)]
        items += calls
        for call in draw(st.permutations(calls)):
            if draw(st.booleans()):
                items += [ApprovalRequested("ap", call.id), ApprovalDecided("ap", call.id, "deny")]
            items.append(ToolResult(call.id, draw(st.sampled_from(STATUSES)), draw(TEXT)))
    return items


@given(conversations())
def test_every_text_is_rendered_exactly_once(items):
    chat = history.render(items)
    texts = sorted(i.text for i in items if isinstance(i, Message | ToolResult))
    assert sorted(m["content"] for m in chat) == texts
    said = [(m["role"], m["content"]) for m in chat if m["role"] != "tool"]
    assert said == [(i.role, i.text) for i in items if isinstance(i, Message)]


@given(conversations())
def test_every_call_has_its_one_result_behind_it_in_call_order(items):
    chat = history.render(items)
    calls = [i.id for i in items if isinstance(i, ToolCall)]
    assert [c["id"] for m in chat for c in m.get("tool_calls", ())] == calls
    for place, message in enumerate(chat):
        asked = [c["id"] for c in message.get("tool_calls", ())]
        behind = chat[place + 1 : place + 1 + len(asked)]
        assert [m.get("tool_call_id") for m in behind] == asked
    assert sum(m["role"] == "tool" for m in chat) == len(calls)


@given(conversations())
def test_arguments_are_always_a_json_object(items):
    for message in history.render(items):
        for call in message.get("tool_calls", ()):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)


@given(conversations())
def test_rendering_depends_on_the_items_alone(items):
    saved = [from_json(json.loads(json.dumps(to_json(item)))) for item in items]
    assert saved == items
    assert history.render(saved) == history.render(items) == history.render(tuple(items))


@given(conversations())
def test_the_log_has_one_entry_for_each_call(items):
    calls = [i for i in items if isinstance(i, ToolCall)]
    log = history.log(items)
    assert [(e["tool"], e["iteration"]) for e in log] == [(c.name, c.iteration) for c in calls]
    assert all(("result" in e) == (e["status"] == "success") and ("error" in e) != ("result" in e) for e in log)


@given(conversations().filter(lambda items: any(isinstance(i, ToolCall) for i in items)), st.data())
def test_a_history_with_a_call_unanswered_or_answered_twice_is_refused(items, data):
    result = data.draw(st.sampled_from([i for i in items if isinstance(i, ToolResult)]))
    with pytest.raises(ValueError, match="has two results"):
        history.render([*items, result])
    without = [i for i in items if i is not result]
    with pytest.raises(ValueError, match="has no result"):
        history.render(without)
    assert [c.id for c in history.unanswered(without)] == [result.call_id]


@given(conversations())
def test_reasoning_goes_back_behind_the_last_question_alone(items):
    last = max((place for place, item in enumerate(items) if getattr(item, "role", "") == "user"), default=-1)
    fresh = [item.text for item in items[last + 1 :] if isinstance(item, Reasoning) and item.text]
    assert [m["reasoning_content"] for m in history.render(items) if "reasoning_content" in m] == fresh


def test_a_call_without_a_turn_is_refused():
    with pytest.raises(ValueError, match="follows no assistant"):
        history.render([Message("user", "x"), ToolCall("c", "a", "{}"), ToolResult("c", "success", "y")])


def test_what_is_no_item_is_refused():
    with pytest.raises(ValueError, match="not an item"):
        from_json({"type": "dance"})
    with pytest.raises(ValueError, match="not an item"):
        from_json({"type": "message", "loudness": 3})
