from __future__ import annotations

import asyncio

import pytest


async def until_gone(server, run_id: str) -> dict:
    """The run's end, when it has come."""
    run = server.runs.active(run_id)
    if run is not None:
        await asyncio.wait_for(run.ended(), 30)
    return (await server.http.get(f"/api/runs/{run_id}")).json()


async def test_a_run_streams_its_items_and_ends_with_done(server):
    server.script.turns = [[("calculator", {"expression": "20 + 3"})], "It is 23."]
    server.script.status = {"id": "demo", "state": "loading", "progress": {"stage": "weights"}}
    told = await server.run()
    kinds = [kind for kind, _ in told]
    assert kinds == ["status", "item", "item", "item", "delta", "item", "done"]
    assert told[0][1]["state"] == "loading"
    assert [data["type"] for kind, data in told if kind == "item"] == ["message", "tool_call", "tool_result", "message"]
    assert told[4][1] == {"text": "It is 23."}
    done = told[-1][1]
    assert (done["status"], done["text"]) == ("completed", "It is 23.")
    assert done["log"] == [
        {"tool": "calculator", "args": {"expression": "20 + 3"}, "status": "success", "result": "23", "iteration": 1}
    ]
    assert [t["iteration"] for t in done["timings"]] == [1, 2]
    assert [(k, d["status"]) for k, d in server.published] == [("run", "running"), ("run", "completed")]


async def test_without_a_stream_there_is_one_answer(server):
    server.script.turns = ["Hello."]
    response = await server.http.post("/api/runs", json=server.request(stream=False))
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["text"]) == ("completed", "Hello.")


async def test_an_approval_is_asked_and_answered_over_http(server):
    server.script.turns = [[("write_file", {"path": "a.txt", "content": "x"})], "Done."]
    seen = []
    async with server.stream(approval="ask", interactive=True) as told:
        async for kind, data in told:
            seen.append(kind)
            if kind == "approval":
                assert not (server.workspace / "a.txt").exists()
                waiting = (await server.http.get("/api/approvals")).json()["approvals"]
                assert [asked["id"] for asked in waiting] == [data["id"]]
                decision = {"decision": "approve", "arguments_hash": data["arguments_hash"]}
                answer = await server.http.post(f"/api/approvals/{data['id']}", json=decision)
                assert (answer.status_code, answer.json()["state"]) == (200, "approved")
                again = await server.http.post(f"/api/approvals/{data['id']}", json={"decision": "deny"})
                assert (again.status_code, again.json()["error"]["code"]) == (409, "approval_decided")
    assert seen[-1] == "done"
    assert data["status"] == "completed"
    assert (server.workspace / "a.txt").read_text() == "x"
    assert (await server.http.get("/api/approvals")).json() == {"approvals": []}


async def test_a_run_that_nobody_can_answer_waits_and_is_resumed(server):
    server.script.turns = [[("run_shell", {"command": "echo hi"})], "Said hi."]
    done = (await server.run(approval="ask"))[-1][1]
    assert done["status"] == "requires_action"
    asked = done["approvals"][0]
    await server.http.post(f"/api/approvals/{asked['id']}", json={"decision": "approve"})
    over = (await server.run(f"/api/runs/{done['run_id']}/resume", stream=True))[-1][1]
    assert (over["status"], over["log"][0]["result"]) == ("completed", "exit code 0\nhi")


async def test_an_interactive_run_ends_when_its_client_leaves(server):
    server.script.turns = [[("run_shell", {"command": "touch a.txt"})]]
    async with server.stream(approval="ask", interactive=True) as told:
        async for kind, data in told:
            if kind == "approval":
                asked = data
                break
    await asyncio.wait_for(server.script.ended.wait(), 30)
    left = await until_gone(server, asked["run_id"])
    assert left["status"] == "cancelled"
    late = await server.http.post(f"/api/approvals/{asked['id']}", json={"decision": "approve"})
    assert late.status_code == 409
    assert not (server.workspace / "a.txt").exists()


async def test_a_run_is_interrupted_not_cancelled_when_the_gateway_stops(server):
    server.script.turns = [[("run_shell", {"command": "touch a.txt"})]]
    async with server.stream(approval="ask", interactive=True) as told:
        async for kind, data in told:
            if kind == "approval":
                asked = data
                run = server.runs.active(data["run_id"])
                server.closing.set()
    await server.runs.close()
    assert (await run.ended())["status"] == "interrupted"
    assert asked["state"] == "open"


async def test_any_other_run_goes_on_when_its_client_leaves(server):
    server.script.turns = [[("calculator", {"expression": "1"})], "Still here."]
    async with server.stream() as told:
        async for kind, _ in told:
            if kind == "item":
                server.script.wait.clear()
                break
    [run] = (await server.http.get("/api/runs")).json()["runs"]
    server.script.wait.set()
    assert (await until_gone(server, run["run_id"]))["text"] == "Still here."


async def test_a_second_client_can_follow_from_the_beginning(server):
    server.script.turns = ["Hello."]
    server.script.wait.clear()
    async with server.stream() as first:
        [run] = (await server.http.get("/api/runs")).json()["runs"]
        async with server.http.stream("GET", f"/api/runs/{run['run_id']}/events") as second:
            server.script.wait.set()
            lines = [line async for line in second.aiter_lines() if line.startswith("event: ")]
        told = [f"event: {kind}" async for kind, _ in first]
    assert lines == told == ["event: delta", "event: item", "event: done"]


async def test_a_run_is_cancelled(server):
    server.script.wait.clear()
    async with server.stream() as told:
        [run] = (await server.http.get("/api/runs")).json()["runs"]
        answer = await server.http.post(f"/api/runs/{run['run_id']}/cancel")
        assert answer.json()["status"] == "cancelled"
        assert [kind async for kind, _ in told] == ["done"]


async def test_a_run_is_told_with_its_items(server):
    server.script.turns = ["Hello."]
    done = (await server.run(system_prompt="Be brief."))[-1][1]
    told = (await server.http.get(f"/api/runs/{done['run_id']}")).json()
    assert [(i["type"], i["role"], i["text"]) for i in told["items"]] == [
        ("message", "system", "Be brief."),
        ("message", "user", "go"),
        ("message", "assistant", "Hello."),
    ]
    assert told["request"]["model"] == "demo"
    gone = await server.http.get(f"/api/runs/{done['run_id']}/events")
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "none"}, 404, "model"),
        ({"prompt": None}, 400, "prompt"),
        ({"workspace": "here"}, 400, "workspace"),
        ({"tools": ["fly"]}, 400, "tools"),
        ({"tools": ["read_file"], "workspace": None}, 400, "tools"),
        ({"stream": "yes"}, 400, "stream"),
        ({"promt": "x"}, 400, "promt"),
    ],
)
async def test_what_is_off_is_refused_before_anything_starts(server, fields, status, param):
    response = await server.http.post("/api/runs", json=server.request(**fields))
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert server.script.asked == 0
    assert (await server.http.get("/api/runs")).json() == {"runs": []}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/approvals/none", {"decision": "approve"}, 404),
        ("/api/approvals/none", {"decision": "perhaps"}, 400),
        ("/api/approvals/none", {"decision": "approve", "scope": "forever"}, 400),
        ("/api/runs/none/resume", {}, 404),
        ("/api/runs/none/cancel", {}, 404),
    ],
)
async def test_what_is_not_there(server, path, body, status):
    assert (await server.http.post(path, json=body)).status_code == status


async def test_without_a_workspace_only_tools_that_need_none_are_offered(server):
    server.script.turns = [[("read_file", {"path": "a"})], "No."]
    done = (await server.run(workspace=None))[-1][1]
    assert done["log"][0]["error"] == "Error: there is no tool read_file. The tools: calculator, current_time."
