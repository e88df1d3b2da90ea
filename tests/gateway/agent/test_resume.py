"""A run goes on after its gateway was killed, and no call runs a second time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bainmarie.errors import ApprovalFailed, BadRequest, NotFound
from bainmarie.store.runs import Binding, RunStore


@pytest.fixture
def crash(tmp_path: Path, workspace: Path):
    def crash(where: str) -> str:
        script = Path(__file__).with_name("crashing_run.py")
        command = [sys.executable, str(script), str(tmp_path / "home"), str(workspace), where]
        died = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL
        return died.stdout.strip()

    return crash


async def states(w) -> list[str]:
    query = "select state from tool_calls order by name desc"
    return list(await w.database.call(lambda c: c.exec_driver_sql(query).scalars().all()))


async def test_a_call_cut_off_in_the_middle_is_not_run_again(world, crash, workspace):
    run_id = crash("tool")
    w = world("Sorry.")
    assert await w.runs.recover() == 1
    assert (await w.runs.described(run_id))["status"] == "interrupted"
    assert "interrupted" in await states(w)
    done = await w.follow(await w.runs.resume(run_id))
    assert (done["status"], done["text"]) == ("completed", "Sorry.")
    assert (workspace / "ran.txt").read_text() == "ran\n"
    assert [(e["tool"], e["status"]) for e in done["log"]] == [("run_shell", "error"), ("calculator", "success")]
    assert done["log"][0]["error"].startswith("Interrupted:")
    assert done["log"][1]["result"] == "23"
    # The turn before the crash is in the prompt once.
    assert [m["role"] for m in w.script.messages[0]] == ["user", "assistant", "tool", "tool"]


async def test_calls_that_were_only_proposed_run_once(world, crash, workspace):
    run_id = crash("turn")
    w = world("Done.")
    await w.runs.recover()
    done = await w.follow(await w.runs.resume(run_id))
    ran = (workspace / "ran.txt").read_text() if (workspace / "ran.txt").exists() else ""
    assert ran.count("ran") <= 1
    assert done["status"] == "completed"
    assert len(done["log"]) == 2


async def test_results_that_are_saved_are_kept(world, crash, workspace):
    run_id = crash("result")
    w = world("Done.")
    await w.runs.recover()
    done = await w.follow(await w.runs.resume(run_id))
    assert [(e["status"], e.get("result")) for e in done["log"]] == [
        ("success", "exit code 0"),
        ("success", "23"),
    ]
    assert (workspace / "ran.txt").read_text() == "ran\n"


async def test_an_interrupted_idempotent_call_runs_again(world, tool_call, workspace):
    (workspace / "a.txt").write_text("text")
    w = world([tool_call("read_file", path="a.txt")], "Done.")
    done = await w.run(approval="ask")
    run_id = done["run_id"]
    await w.runs.approvals.decide(done["approvals"][0]["id"], "approve")
    await w.database.call(lambda c: c.exec_driver_sql("update tool_calls set state = 'interrupted'"))
    done = await w.follow(await w.runs.resume(run_id))
    assert done["log"][0]["result"] == "text"


async def test_a_call_that_is_done_keeps_its_outcome(world, tool_call, workspace):
    w = world([tool_call("write_file", path="a.txt", content="x")], "Done.")
    done = await w.run(approval="ask")
    await w.runs.approvals.decide(done["approvals"][0]["id"], "approve")
    journalled = "update tool_calls set state = 'done', outcome_status = 'success', outcome_text = 'as before'"
    await w.database.call(lambda c: c.exec_driver_sql(journalled))
    done = await w.follow(await w.runs.resume(done["run_id"]))
    assert done["log"][0]["result"] == "as before"
    assert not list(workspace.iterdir())


async def test_the_journal_lets_a_call_start_once(world, tool_call):
    w = world([tool_call("run_shell", command="true")], "Done.")
    done = await w.run()
    items = (await w.runs.described(done["run_id"]))["items"]
    call_id = next(item["id"] for item in items if item["type"] == "tool_call")
    with pytest.raises(ApprovalFailed, match="has run before"):
        await RunStore(w.database).start(call_id, Binding("", ""), again=True)


async def test_what_has_ended_for_good_is_not_resumed(world):
    w = world("Done.")
    done = await w.run()
    with pytest.raises(BadRequest):
        await w.runs.resume(done["run_id"])
    with pytest.raises(NotFound):
        await w.runs.resume("run_none")


async def test_a_run_that_ended_as_the_gateway_died_is_not_asked_again(world):
    w = world("Done.")
    done = await w.run()
    await w.database.call(lambda c: c.exec_driver_sql("update runs set status = 'running', text = ''"))
    assert await w.runs.recover() == 1
    again = await w.follow(await w.runs.resume(done["run_id"]))
    assert (again["status"], again["text"], w.script.asked) == ("completed", "Done.", 1)


async def test_closing_interrupts_runs_that_then_can_be_resumed(world, tool_call):
    w = world([tool_call("run_shell", command="true")])
    run = await w.start(approval="ask", interactive=True)
    async for event in run.events():
        if event.kind == "approval":
            break
    await w.runs.close()
    assert (await run.ended())["status"] == "interrupted"
    w = world("Done.")
    [asked] = await w.runs.approvals.open()
    await w.runs.approvals.decide(asked.id, "approve")
    assert (await w.follow(await w.runs.resume(run.id)))["status"] == "completed"
