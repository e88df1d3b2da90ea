"""generate, chat, run and test, on the fake engine and a real gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CALL_LINE = 'calculator(expression="173 * 29")'


@pytest.fixture(scope="module")
def up(home) -> Iterator[None]:
    with home.gateway():
        yield


@pytest.mark.usefixtures("up")
def test_generate_prints_only_the_text_on_stdout(home) -> None:
    told = home.bain("generate", "fake", "Hello there")
    assert (told.returncode, told.stdout) == (0, "Hello there\n")
    assert home.bain("generate", "fake", "Hello there").stderr == ""
    assert home.bain("generate", "fake", "-", stdin="from a pipe").stdout == "from a pipe\n"
    assert home.bain("generate", "fake", "one two three", "--stream").stdout == "one two three\n"
    answer = json.loads(home.bain("generate", "fake", "x", "--json").stdout)
    assert answer["choices"][0]["message"]["content"] == "x"


@pytest.mark.usefixtures("up")
def test_generate_cuts_at_max_tokens(home) -> None:
    answer = json.loads(home.bain("generate", "fake", "one two three four", "--max-tokens", "1", "--json").stdout)
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_wrong_option_is_a_usage_error(home) -> None:
    assert home.bain("generate", "fake", "x", "--temperature", "hot").returncode == 2
    assert home.bain("generate", "fake").returncode == 2
    assert home.bain("generate", "fake", "x", "--stream", "--json").returncode == 2


@pytest.mark.usefixtures("up")
def test_chat_answers_each_line_of_a_pipe(home) -> None:
    told = home.bain("chat", "fake", stdin="one\n\ntwo words\n")
    assert (told.returncode, told.stdout) == (0, "one\ntwo words\n")


@pytest.mark.usefixtures("up")
def test_chat_in_a_terminal_talks_until_exit(home) -> None:
    chat = home.terminal("chat", "fake")
    chat.expect_exact("> ")
    chat.sendline("hello you")
    chat.expect_exact("hello you\r\n")
    chat.expect_exact("hello you\r\n")
    chat.expect_exact("> ")
    chat.sendline("/help")
    chat.expect_exact("/exit or Ctrl-D leaves")
    chat.expect_exact("> ")
    chat.sendline("/exit")
    chat.expect_exact("/exit")
    chat.wait()
    assert chat.exitstatus == 0


@pytest.mark.usefixtures("up")
def test_ctrl_c_stops_an_answer_and_not_the_chat(home) -> None:
    assert home.bain("load", "slow").returncode == 0
    chat = home.terminal("chat", "slow")
    chat.expect_exact("> ")
    chat.sendline("alpha " + "beta " * 200 + "omega")
    chat.expect_exact("omega")
    chat.expect_exact("alpha beta")
    chat.sendintr()
    assert chat.expect_exact(["stopped", "omega"]) == 0
    chat.expect_exact("> ")
    chat.sendeof()
    chat.expect_exact("\n")
    chat.wait()
    assert chat.exitstatus == 0
    told = json.loads(home.bain("status", "--json").stdout)
    assert next(model["in_flight"] for model in told["models"] if model["id"] == "slow") == 0


@pytest.mark.usefixtures("up")
def test_an_interrupted_command_exits_with_130(home) -> None:
    assert home.bain("load", "slow").returncode == 0
    generate = home.terminal("generate", "slow", "alpha " * 300, "--stream")
    generate.expect_exact("alpha alpha")
    generate.sendintr()
    generate.expect_exact("interrupted")
    generate.wait()
    assert generate.exitstatus == 130


@pytest.mark.usefixtures("up")
def test_run_shows_text_on_stdout_and_calls_on_stderr(home, tmp_path: Path) -> None:
    told = home.bain("run", "sums", "What is 173 * 29?", "--allow", "calculator", cwd=tmp_path)
    assert (told.returncode, told.stdout) == (0, "I work it out.\nIt is 5017.\n")
    assert f"{CALL_LINE}\n  -> 5017\n" in told.stderr


@pytest.mark.usefixtures("up")
def test_run_without_a_terminal_denies_and_says_so(home, tmp_path: Path) -> None:
    told = home.bain("run", "writes", "Write it.", cwd=tmp_path)
    assert told.returncode == 9
    assert "denied write_file: it needs approval and there is no terminal to ask on" in told.stderr
    assert "  -> Denied: the user did not allow this call.\n" in told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("up")
def test_run_writes_into_the_workspace_it_was_given(home, tmp_path: Path) -> None:
    told = home.bain("run", "writes", "Write it.", "--yes", "--workspace", str(tmp_path), "--json")
    assert told.returncode == 0
    done = json.loads(told.stdout)
    assert (done["status"], done["text"]) == ("completed", "Done.")
    assert [(entry["tool"], entry["status"]) for entry in done["log"]] == [("write_file", "success")]
    assert (tmp_path / "a.txt").read_text() == "hello"


@pytest.mark.usefixtures("up")
def test_a_denied_tool_is_denied_without_a_question(home, tmp_path: Path) -> None:
    told = home.bain("run", "writes", "Write it.", "--yes", "--deny", "write_file", cwd=tmp_path)
    assert told.returncode == 9
    assert "no terminal" not in told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(("answer", "written"), [("y", True), ("n", False)])
def test_run_asks_in_the_terminal(home, tmp_path: Path, answer: str, written: bool) -> None:
    run = home.terminal("run", "writes", "Write it.", "--workspace", str(tmp_path))
    run.expect_exact("write_file asks to run with")
    run.expect_exact("path: a.txt")
    run.expect_exact("[y] once  [a] always in this session  [n] no: ")
    run.sendline("perhaps")
    run.expect_exact("[n] no: ")
    run.sendline(answer)
    run.expect_exact("Wrote 5 bytes to a.txt." if written else "Denied: the user did not allow this call.")
    run.expect_exact("Done." if written else "the run ended")
    run.wait()
    assert run.exitstatus == (0 if written else 9)
    assert (tmp_path / "a.txt").exists() is written


@pytest.mark.usefixtures("up")
def test_always_holds_for_one_tool_in_one_session(home, tmp_path: Path) -> None:
    run = home.terminal("run", "twice", "Write it twice.", "--workspace", str(tmp_path))
    run.expect_exact("write_file asks to run with")
    run.expect_exact("[n] no: ")
    run.sendline("a")
    run.expect_exact("Wrote 5 bytes")
    assert run.expect_exact(["asks to run with", "Wrote 5 bytes"]) == 1
    run.expect_exact("run_shell asks to run with")
    run.expect_exact("[n] no: ")
    run.sendline("n")
    run.expect_exact("the run ended")
    run.wait()
    assert not (tmp_path / "x.txt").exists()


@pytest.mark.usefixtures("up")
def test_ctrl_c_at_the_question_cancels_the_run(home, tmp_path: Path) -> None:
    run = home.terminal("run", "writes", "Write it.", "--workspace", str(tmp_path))
    run.expect_exact("[n] no: ")
    waiting = json.loads(home.bain("approvals", "ls", "--json").stdout)
    assert [request["tool"] for request in waiting] == ["write_file"]
    run.sendintr()
    run.expect_exact("interrupted")
    run.wait()
    assert run.exitstatus == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("up")
def test_an_approval_can_be_given_from_another_terminal(home, tmp_path: Path) -> None:
    run = home.terminal("run", "writes", "Write it.", "--workspace", str(tmp_path))
    run.expect_exact("[n] no: ")
    (request,) = json.loads(home.bain("approvals", "ls", "--json").stdout)
    assert request["id"] in home.bain("approvals", "ls").stdout
    assert home.bain("approvals", "approve", request["id"]).returncode == 0
    assert home.bain("approvals", "deny", request["id"]).returncode == 9
    run.sendline("n")
    run.expect_exact("Done.")
    run.wait()
    assert run.exitstatus == 0
    assert (tmp_path / "a.txt").read_text() == "hello"


@pytest.mark.usefixtures("up")
def test_the_smoke_test_of_a_sound_model_passes(home) -> None:
    told = home.bain("test", "sums", "--json")
    assert told.returncode == 0, told.stderr
    rows = json.loads(told.stdout)["models"]["sums"]
    assert [row["check"] for row in rows] == ["starts", "answers", "stays loaded", "streams the same", "calls a tool"]
    assert {row["outcome"] for row in rows} == {"passed"}
    assert "/environments/" in rows[0]["detail"]


@pytest.mark.usefixtures("up")
def test_the_smoke_test_says_what_does_not_apply_and_what_failed(home) -> None:
    told = home.bain("test", "plain", "broken", "fake", "--json")
    assert told.returncode == 8
    models = json.loads(told.stdout)["models"]
    assert models["plain"][-1] | {"seconds": 0} == {
        "check": "calls a tool",
        "outcome": "not applicable",
        "detail": "prompt: plain has no chat template",
        "seconds": 0,
    }
    assert [(row["check"], row["outcome"]) for row in models["broken"]] == [("starts", "failed")]
    assert models["fake"][-1]["outcome"] == "failed"
    assert "the smoke test failed for broken, fake" in told.stderr
    assert re.search(r"fake +starts +ok", home.bain("test", "fake").stdout)
