from __future__ import annotations

import asyncio
import json
import os
import statistics
from typing import Any

from bainmarie.agent.chat import AssistantMessage, ProposedCall
from bainmarie.agent.loop import NOTHING_RUN
from bainmarie.agent.request import read_request


def texts(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in messages]


async def test_an_answer_without_calls_ends_the_run(world):
    w = world("Hello there.")
    done = await w.run("Hello")
    assert (done["status"], done["text"], done["log"]) == ("completed", "Hello there.", [])
    assert texts(w.script.messages[0]) == [("user", "Hello")]
    assert [e.data["text"] for e in w.events if e.kind == "delta"] == ["Hello", "there."]


async def test_each_turn_sees_every_text_exactly_once(world, tool_call):
    steps = [
        (f"step {n}", [tool_call("calculator", expression=f"{n} + 1"), tool_call("calculator", expression=f"{n} * 2")])
        for n in range(6)
    ]
    w = world(*steps, "The end.")
    done = await w.run("count", system_prompt="You count.")
    assert done["status"] == "completed"
    expected = [("system", "You count."), ("user", "count")]
    for turn, messages in enumerate(w.script.messages):
        assert texts(messages) == expected, f"turn {turn}"
        expected += [("assistant", f"step {turn}"), ("tool", str(turn + 1)), ("tool", str(turn * 2))]
    for messages in w.script.messages:
        asked = [c["id"] for m in messages for c in m.get("tool_calls", ())]
        answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
        assert asked == answered
        assert len(set(asked)) == len(asked)


async def test_reasoning_is_saved_and_goes_back_with_its_calls_until_the_next_question(world, tool_call):
    add = tool_call("calculator", expression="1 + 1")
    w = world(AssistantMessage("I add.", (add,), reasoning="One and one."), AssistantMessage("2", reasoning="So 2."))
    done = await w.run("Add")
    assert done["text"] == "2"
    assert [e.data["reasoning"] for e in w.events if e.kind == "delta"] == ["One and one.", "So 2."]
    first, second = w.script.messages
    assert [m.get("reasoning_content") for m in second] == [None, "One and one.", None]
    assert second[1]["content"] == "I add."
    assert len(first) == 1
    saved = [(e.data["type"], e.data["text"]) for e in w.events if e.kind == "item" and e.data["type"] != "tool_call"]
    reasoning, said = ("reasoning", "One and one."), ("message", "I add.")
    assert saved == [reasoning, said, ("tool_result", "2"), ("reasoning", "So 2."), ("message", "2")]


async def test_reasoning_that_a_caller_brings_is_kept(world):
    w = world("Yes.")
    history = [
        {"role": "user", "content": "Old"},
        {"role": "assistant", "content": "Old answer", "reasoning_content": "Old thought"},
        {"role": "user", "content": "New"},
    ]
    run = await w.runs.start(read_request({"model": "demo", "messages": history}))
    await w.follow(run)
    assert [m["content"] for m in w.script.messages[0]] == ["Old", "Old answer", "New"]
    assert all("reasoning_content" not in m for m in w.script.messages[0])


async def test_log_says_what_was_called_and_what_came(world, tool_call, workspace):
    (workspace / "a.txt").write_text("hi")
    w = world([tool_call("read_file", path="a.txt"), tool_call("read_file", path="b.txt")], "Done.")
    done = await w.run()
    assert done["log"] == [
        {"tool": "read_file", "args": {"path": "a.txt"}, "status": "success", "result": "hi", "iteration": 1},
        {
            "tool": "read_file",
            "args": {"path": "b.txt"},
            "status": "error",
            "error": "Error: there is no file b.txt in the workspace.",
            "iteration": 1,
        },
    ]


async def test_a_model_that_repeats_its_call_ids_confuses_nothing(world, tool_call):
    same = [tool_call("calculator", expression="1 + 1")]
    done = await world(same, same, "ok").run()
    assert [entry["result"] for entry in done["log"]] == ["2", "2"]


async def test_results_come_in_call_order_whichever_ends_first(world, tool_call):
    calls = [
        tool_call("run_shell", command="until [ -e go ]; do :; done; echo first"),
        tool_call("run_shell", command="echo second; touch go"),
    ]
    w = world(calls, "ok")
    done = await w.run()
    assert [entry["result"] for entry in done["log"]] == ["exit code 0\nfirst", "exit code 0\nsecond"]
    assert [m["content"] for m in w.script.messages[1] if m["role"] == "tool"] == [
        "exit code 0\nfirst",
        "exit code 0\nsecond",
    ]


async def test_broken_json_goes_back_as_a_result(world, tool_call, workspace):
    broken = ProposedCall("write_file", '{"path": "a.txt", "content": ')
    w = world([broken, tool_call("calculator", expression="2 * 3")], "I see.")
    done = await w.run()
    assert done["status"] == "completed"
    assert [entry["status"] for entry in done["log"]] == ["error", "success"]
    assert done["log"][0]["error"].startswith("Error: the arguments are not valid JSON:")
    assert not list(workspace.iterdir())
    sent = w.script.messages[1][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"invalid": broken.arguments}


async def test_wrong_arguments_and_unknown_tools_go_back_as_results(world, tool_call, workspace):
    calls = [
        tool_call("write_file", path="a.txt"),
        tool_call("write_file", path="a.txt", content="x", mode="append"),
        tool_call("write_file", path=1, content="x"),
        tool_call("delete_file", path="a.txt"),
    ]
    done = await world(calls, "I see.").run()
    errors = [entry["error"] for entry in done["log"]]
    assert errors[0] == "Error: write_file needs the argument 'content'."
    assert errors[1] == "Error: write_file has no argument 'mode'. Its arguments: path, content."
    assert errors[2].startswith("Error: the arguments of write_file are wrong: path:")
    assert errors[3].startswith("Error: there is no tool delete_file. The tools: calculator,")
    assert not list(workspace.iterdir())


async def test_denied_calls_never_run_and_the_run_ends(world, tool_call, workspace):
    calls = [tool_call("write_file", path="a.txt", content="x"), tool_call("run_shell", command="touch b.txt")]
    w = world(("Writing.", calls))
    done = await w.run(approval="deny")
    assert (done["status"], done["text"]) == ("all_denied", "Writing.")
    assert [entry["status"] for entry in done["log"]] == ["denied", "denied"]
    assert done["log"][0]["error"] == "Denied: the rules do not allow write_file."
    assert w.script.asked == 1
    assert not list(workspace.iterdir())


async def test_all_denied_without_a_text_says_so(world, tool_call):
    done = await world([tool_call("run_shell", command="true")]).run(approval="deny")
    assert done["text"] == NOTHING_RUN


async def test_one_denied_call_among_others_is_a_result_and_the_run_goes_on(world, tool_call, workspace):
    calls = [tool_call("run_shell", command="touch no.txt"), tool_call("write_file", path="yes.txt", content="x")]
    w = world(calls, "Half done.")
    done = await w.run(rules=[{"tool": "run_*", "action": "deny"}])
    assert (done["status"], done["text"]) == ("completed", "Half done.")
    assert [p.name for p in workspace.iterdir()] == ["yes.txt"]
    assert [m["content"] for m in w.script.messages[1] if m["role"] == "tool"] == [
        "Denied: the rules do not allow run_shell.",
        "Wrote 1 byte to yes.txt.",
    ]


async def test_the_turn_past_the_limit_has_no_tools_and_still_answers(world, tool_call):
    again = [tool_call("calculator", expression="1 + 1")]
    w = world(again, again, again, "It is 2, I think.")
    done = await w.run(max_iterations=3)
    assert (done["status"], done["text"]) == ("max_iterations", "It is 2, I think.")
    assert len(done["log"]) == 3
    assert all(w.script.tools[:3])
    assert w.script.tools[3] == []


async def test_calls_past_the_limit_are_not_made(world, tool_call, workspace):
    w = world(
        [tool_call("calculator", expression="1")], ("Stop.", [tool_call("write_file", path="a.txt", content="x")])
    )
    done = await w.run(max_iterations=1)
    assert (done["status"], done["text"], len(done["log"])) == ("max_iterations", "Stop.", 1)
    assert not list(workspace.iterdir())


async def test_a_tool_that_takes_too_long_is_ended_and_said(world, tool_call, workspace):
    w = world([tool_call("run_shell", command="sleep 60; touch late.txt")], "Too slow.", time_limit=0.3)
    done = await w.run()
    assert done["log"][0]["error"] == "Error: the tool run_shell took too long (0.3 s) and was ended."
    assert done["status"] == "completed"


async def test_a_failing_model_fails_the_run_with_its_error(world):
    async def die(messages):
        raise OSError("no model")

    w = world(die)
    done = await w.run()
    assert done["status"] == "failed"
    assert done["error"]["message"] == "the run failed: OSError: no model"
    assert w.script.held == 0


async def test_only_the_tools_asked_for_are_offered(world):
    w = world("ok")
    await w.run(tools=["read_file", "calculator"])
    assert w.script.tools == [["calculator", "read_file"]]


async def test_cancelling_ends_running_tools_and_journals_them(world, tool_call, workspace):
    os.mkfifo(workspace / "begun")
    command = "echo > begun; sleep 60; touch late.txt"
    w = world([tool_call("run_shell", command=command)])
    run = await w.start()
    await asyncio.to_thread((workspace / "begun").read_text)
    told = await w.runs.cancel(run.id)
    assert told["status"] == "cancelled"
    states = await w.database.call(lambda c: c.exec_driver_sql("select state from tool_calls").scalars().all())
    assert states == ["interrupted"]
    assert not (workspace / "late.txt").exists()
    assert w.script.held == 0


async def test_a_run_cancelled_before_its_first_step_ends_too(world):
    w = world("never")
    run = await w.start()
    run.cancel()
    assert (await run.ended())["status"] == "cancelled"
    assert w.script.asked == 0


async def test_every_iteration_is_timed(world, tool_call, capsys):
    turns = [[tool_call("calculator", expression=f"{n} + 1")] for n in range(20)]
    w = world(*turns, "done")
    done = await w.run(max_iterations=30)
    assert [t["iteration"] for t in done["timings"]] == list(range(1, 22))
    overheads = [float(t["overhead_seconds"]) for t in done["timings"]]
    assert all(o > 0 for o in overheads)
    with capsys.disabled():
        print(f"\noverhead of an iteration: median {statistics.median(overheads) * 1000:.2f} ms, ", end="")
        print(f"most {max(overheads) * 1000:.2f} ms, over {len(overheads)}")
