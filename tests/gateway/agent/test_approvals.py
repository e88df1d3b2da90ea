from __future__ import annotations

import asyncio

import pytest

from bainmarie.errors import ApprovalFailed, NotFound


async def test_an_approved_call_runs(world, tool_call, workspace):
    w = world([tool_call("write_file", path="a.txt", content="x")], "Done.")
    done = await w.run(decide=w.approving(), approval="ask", interactive=True)
    assert done["status"] == "completed"
    assert (workspace / "a.txt").read_text() == "x"
    asked = next(e.data for e in w.events if e.kind == "approval")
    assert (asked["tool"], asked["arguments"]) == ("write_file", {"path": "a.txt", "content": "x"})
    kinds = [e.data["type"] for e in w.events if e.kind == "item"]
    assert kinds == ["message", "tool_call", "approval_request", "approval_decision", "tool_result", "message"]


async def test_a_denied_call_never_runs(world, tool_call, workspace):
    w = world([tool_call("run_shell", command="touch a.txt")])
    done = await w.run(decide=w.denying(), approval="ask", interactive=True)
    assert done["status"] == "all_denied"
    assert done["log"][0]["error"] == "Denied: the user did not allow this call."
    assert not list(workspace.iterdir())


async def test_the_reason_of_a_denial_is_told_to_the_model(world, tool_call):
    w = world([tool_call("run_shell", command="true"), tool_call("calculator", expression="1")], "I see.")
    rules = [{"tool": "calculator", "action": "allow"}]
    await w.run(decide=w.denying("not today."), approval="ask", interactive=True, rules=rules)
    assert [m["content"] for m in w.script.messages[1] if m["role"] == "tool"] == ["Denied: not today.", "1"]


async def test_always_in_this_session_asks_once_for_that_tool_only(world, tool_call):
    write = lambda n: tool_call("write_file", path=f"{n}.txt", content="x")  # noqa: E731
    w = world([write(1), write(2)], [write(3), tool_call("run_shell", command="true")], "Done.")
    await w.run(decide=w.approving(scope="session"), approval="ask", interactive=True)
    assert [e.data["tool"] for e in w.events if e.kind == "approval"] == ["write_file", "run_shell"]


async def test_a_session_spans_runs_and_restarts_and_no_other_session(world, tool_call):
    turn = [tool_call("write_file", path="a.txt", content="x")]
    w = world(turn, "ok", turn, "ok")
    await w.run(decide=w.approving(scope="session"), approval="ask", interactive=True, session="s1")
    await w.run(approval="ask", interactive=True, session="s1")
    assert len([e for e in w.events if e.kind == "approval"]) == 1
    await w.runs.close()
    w = world(turn, "ok", turn)
    assert (await w.run(approval="ask", session="s1"))["status"] == "completed"
    assert (await w.run(approval="ask", session="s2"))["status"] == "requires_action"


async def test_a_configured_deny_beats_everything(world, tool_call):
    from bainmarie.agent.policy import Rule

    w = world([tool_call("run_shell", command="true")], rules=(Rule("run_shell", "deny"),))
    done = await w.run(approval="allow", rules=[{"tool": "*", "action": "allow"}])
    assert done["status"] == "all_denied"


async def test_without_anybody_to_ask_the_run_waits_for_a_decision(world, tool_call, workspace):
    w = world([tool_call("write_file", path="a.txt", content="x")], "Done.")
    done = await w.run(approval="ask")
    assert done["status"] == "requires_action"
    [asked] = done["approvals"]
    assert not list(workspace.iterdir())
    assert [r.id for r in await w.runs.approvals.open()] == [asked["id"]]
    still = await w.follow(await w.runs.resume(done["run_id"]))
    assert still["status"] == "requires_action"
    assert len(still["approvals"]) == 1
    await w.runs.approvals.decide(asked["id"], "approve")
    over = await w.follow(await w.runs.resume(done["run_id"]))
    assert (over["status"], over["text"]) == ("completed", "Done.")
    assert (workspace / "a.txt").read_text() == "x"


async def test_a_decision_outlives_a_restart(world, tool_call, workspace):
    w = world([tool_call("write_file", path="a.txt", content="x")])
    done = await w.run(approval="ask")
    await w.runs.close()
    w = world("Done.")
    await w.runs.recover()
    await w.runs.approvals.decide(done["approvals"][0]["id"], "approve")
    over = await w.follow(await w.runs.resume(done["run_id"]))
    assert over["status"] == "completed"
    assert (workspace / "a.txt").read_text() == "x"


async def test_where_nobody_is_there_and_deny_is_the_default_a_question_is_a_denial(world, tool_call):
    w = world([tool_call("run_shell", command="true")])
    done = await w.run(approval="deny", rules=[{"tool": "run_shell", "action": "ask"}])
    assert done["status"] == "all_denied"


async def test_a_decision_is_taken_once(world, tool_call):
    w = world([tool_call("run_shell", command="true")])
    done = await w.run(approval="ask")
    asked = done["approvals"][0]["id"]
    both = await asyncio.gather(
        w.runs.approvals.decide(asked, "approve"), w.runs.approvals.decide(asked, "deny"), return_exceptions=True
    )
    assert [type(one) for one in both].count(ApprovalFailed) == 1
    with pytest.raises(ApprovalFailed, match="already"):
        await w.runs.approvals.decide(asked, "approve")
    with pytest.raises(NotFound):
        await w.runs.approvals.decide("appr_none", "approve")


async def test_a_decision_about_other_arguments_is_refused(world, tool_call):
    w = world([tool_call("run_shell", command="true")])
    asked = (await w.run(approval="ask"))["approvals"][0]
    with pytest.raises(ApprovalFailed):
        await w.runs.approvals.decide(asked["id"], "approve", arguments_hash="0" * 64)
    await w.runs.approvals.decide(asked["id"], "approve", arguments_hash=asked["arguments_hash"])


async def test_arguments_that_changed_after_the_approval_do_not_run(world, tool_call, workspace):
    w = world([tool_call("write_file", path="a.txt", content="x")], "Done.")
    done = await w.run(approval="ask")
    await w.runs.approvals.decide(done["approvals"][0]["id"], "approve")

    def tamper(connection):
        changed = "update items set body = replace(body, 'a.txt', 'b.txt') where type = 'tool_call'"
        assert connection.exec_driver_sql(changed).rowcount == 1

    await w.database.call(tamper)
    over = await w.follow(await w.runs.resume(done["run_id"]))
    assert (over["status"], over["error"]["code"]) == ("failed", "approval_failed")
    assert "arguments" in over["error"]["message"]
    assert not list(workspace.iterdir())


async def test_a_tool_that_changed_after_the_approval_does_not_run(world, tool_call, workspace):
    w = world([tool_call("write_file", path="a.txt", content="x")], "Done.")
    done = await w.run(approval="ask")
    await w.runs.approvals.decide(done["approvals"][0]["id"], "approve")
    await w.database.call(lambda c: c.exec_driver_sql("update approvals set definition_hash = 'another'"))
    over = await w.follow(await w.runs.resume(done["run_id"]))
    assert (over["status"], over["error"]["code"]) == ("failed", "approval_failed")
    assert not list(workspace.iterdir())


async def test_a_cancelled_run_takes_its_questions_back(world, tool_call):
    w = world([tool_call("run_shell", command="true")])
    run = await w.start(approval="ask", interactive=True)
    asked = None
    async for event in run.events():
        if event.kind == "approval":
            asked = event.data["id"]
            run.cancel()
    assert await w.runs.approvals.open() == []
    with pytest.raises(ApprovalFailed, match="withdrawn"):
        await w.runs.approvals.decide(asked, "approve")
