from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bainmarie.cli import terminal
from bainmarie.cli.asking import ANSWERS
from bainmarie.cli.loading import Lines
from bainmarie.cli.runs import arguments_of
from bainmarie.cli.stages import StageClock
from bainmarie.cli.status import ago
from bainmarie.cli.transcript import Transcript, call_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0 ms"), (0.84, "840 ms"), (3.21, "3.2 s"), (59.94, "59.9 s"), (250.0, "4 min 10 s")],
)
def test_durations_as_people_read_them(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert terminal.visible("a\x1b[2Jb\rc\u202ed") == "a\\x1b[2Jb\\rc\\u202ed"
    assert terminal.visible("tab\tline\n日本 👩‍🔬 é") == "tab\tline\n日本 👩‍🔬 é"


def test_a_shortened_text_is_one_line_of_that_length() -> None:
    assert terminal.shorten("a\n b", 10) == "a b"
    assert terminal.shorten("x" * 50, 10) == "x" * 7 + "..."


def test_the_time_of_each_stage_is_added_up_in_order() -> None:
    moments = iter([0.0, 1.0, 3.0, 3.5, 4.0])
    clock = StageClock(now=lambda: next(moments))
    for state, stage in [
        ("preparing", "resolve"),
        ("preparing", "download"),
        ("preparing", "download"),
        ("starting", None),
        ("loading", "weights"),
        ("ready", None),
    ]:
        clock.see({"id": "m", "state": state, "progress": {"stage": stage} if stage else None})
    assert clock.seconds == {
        "environment: resolve": 1.0,
        "environment: download": 2.0,
        "process": 0.5,
        "weights": 0.5,
    }
    assert clock.total == 4.0


def test_a_stage_is_one_line_however_often_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    clock = StageClock(now=lambda: 0.0)
    for fraction in (0.1, 0.2, 0.9):
        lines.show({"id": "m", "state": "loading", "progress": {"stage": "weights", "fraction": fraction}}, clock)
    assert capsys.readouterr().err == "m: weights\n"


def test_a_call_reads_as_one() -> None:
    assert call_text("calculator", '{"expression": "17 + 5"}') == 'calculator(expression="17 + 5")'
    assert call_text("f", "{}") == "f()"
    assert call_text("f", "{broken") == "f({broken)"
    assert call_text("f", "[1]") == "f([1])"


def test_arguments_that_are_no_object_are_shown_all_the_same() -> None:
    assert arguments_of('{"a": 1}') == {"a": 1}
    assert arguments_of("{broken") == {"arguments": "{broken"}
    assert arguments_of([1]) == {"arguments": [1]}


def test_streamed_text_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    transcript = Transcript(text=sys.stdout, calls=sys.stderr)
    transcript.delta("\nHello ")
    transcript.delta("you")
    transcript.item({"type": "message", "role": "assistant", "text": "\nHello you", "iteration": 1})
    transcript.item({"type": "tool_call", "id": "c", "name": "f", "arguments": "{}", "iteration": 1})
    transcript.item({"type": "tool_result", "call_id": "c", "status": "success", "text": "1\n2"})
    transcript.item({"type": "message", "role": "assistant", "text": "not streamed", "iteration": 2})
    told = capsys.readouterr()
    assert told.out == "Hello you\nnot streamed\n"
    assert told.err == "f()\n  -> 1\n     2\n"


def test_a_long_result_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    transcript = Transcript(text=None, calls=sys.stderr)
    transcript.item({"type": "tool_result", "call_id": "c", "status": "success", "text": "x\n" * 20})
    assert capsys.readouterr().err.splitlines()[-1] == "     ... 12 more lines"


def test_each_answer_to_the_question_is_one_decision() -> None:
    assert {word: answer.to_json() for word, answer in ANSWERS.items() if len(word) == 1} == {
        "y": {"decision": "approve", "scope": "once"},
        "a": {"decision": "approve", "scope": "session"},
        "n": {"decision": "deny"},
    }


def test_the_time_since_a_moment() -> None:
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert ago("2026-01-02T11:59:48Z", now) == "12 s ago"
    assert ago("2026-01-02T10:00:00+00:00", now) == "2 h ago"
    assert ago("2025-12-30T10:00:00Z", now) == "3 d ago"
    assert ago(None, now) == ""
