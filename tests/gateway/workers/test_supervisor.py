"""One start for all who ask, one failure for all, and nobody evicted who is in use."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bainmarie.errors import BainError, EnvironmentFailed, LoadFailed, NotFound, OverCapacity, WorkerDied
from bainmarie.progress import Progress
from bainmarie.workers.backoff import BackOff
from bainmarie.workers.limits import Limits

WAY = ["preparing", "starting", "loading", "ready"]


def starts(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


async def rest(response: Any, into: list[bytes] | None = None) -> None:
    """Reads a response to its end."""
    async for chunk in response:
        if into is not None:
            into.append(chunk)


async def test_a_lease_starts_the_worker_and_tells_every_state(kitchen: Any, model: Any) -> None:
    k = await kitchen(model())
    assert k.supervisor.status_of("m").state == "unloaded"
    assert await k.chat(text="hello") == {"text": "hello"}
    status = k.supervisor.status_of("m")
    assert k.states() == WAY
    assert (status.state, status.in_flight, status.queued, status.restarts) == ("ready", 0, 0, 0)
    assert status.pid == status.info["pid"]
    assert status.loaded_at != ""
    assert status.last_used_at != ""
    assert status.environment_digest == "digest"


async def test_unknown_model(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("demo"))
    with pytest.raises(NotFound, match="demmo"):
        await k.chat("demmo")


async def test_200_first_callers_cause_one_start(kitchen: Any, model: Any, tmp_path: Path) -> None:
    k = await kitchen(model(starts=str(tmp_path / "starts"), load_seconds=0.3))
    answers = await asyncio.gather(*(k.chat(n=n) for n in range(200)))
    assert answers == [{"n": n} for n in range(200)]
    assert starts(tmp_path / "starts") == 1


async def test_callers_who_leave_stop_no_load(kitchen: Any, model: Any, tmp_path: Path) -> None:
    k = await kitchen(model(starts=str(tmp_path / "starts"), load_seconds=0.5))
    callers = [asyncio.create_task(k.chat(n=n)) for n in range(200)]
    await k.until("m", "loading")
    assert k.supervisor.status_of("m").queued == 200
    for caller in callers[:196]:
        caller.cancel()
    assert await asyncio.gather(*callers[196:]) == [{"n": n} for n in range(196, 200)]
    assert k.states() == WAY
    assert starts(tmp_path / "starts") == 1


async def test_a_load_goes_on_when_its_only_caller_leaves(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(load_seconds=0.3))
    caller = asyncio.create_task(k.chat())
    await k.until("m", "starting")
    caller.cancel()
    await k.until("m", "ready")
    assert k.states() == WAY


async def test_a_caller_hears_the_progress(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(load_seconds=0.2))
    heard: list[Progress] = []
    async with k.supervisor.lease("m", heard.append):
        assert [p.stage for p in heard][:2] == ["resolve", "process"]
        fractions = [p.fraction for p in heard if p.stage == "weights"]
    assert fractions == sorted(fractions)
    assert len(fractions) == 10


async def test_one_failed_start_is_the_same_failure_for_all(kitchen: Any, model: Any, tmp_path: Path) -> None:
    k = await kitchen(
        model(starts=str(tmp_path / "starts"), load_seconds=0.1, fail_load="model_incomplete"),
        back_off=BackOff(first=60),
    )
    errors = await asyncio.gather(*(k.chat() for _ in range(100)), return_exceptions=True)
    assert {(type(e), e.code, e.message, e.hint) for e in errors} == {
        (LoadFailed, "model_incomplete", "the weights do not fit", "Take others.")
    }
    with pytest.raises(LoadFailed, match="the weights do not fit") as later:
        await k.chat()
    assert later.value.log_tail == "it says why"
    assert starts(tmp_path / "starts") == 1
    status = k.supervisor.status_of("m")
    assert status.state == "failed"
    assert status.last_error.retry_at > "2026"


async def test_a_crash_while_loading_shows_the_end_of_the_log(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(crash_at_load=True))
    with pytest.raises(LoadFailed, match=r"died while loading \(exit code 3\): CUDA out of memory") as caught:
        await k.chat()
    assert caught.value.code == "worker_died"
    assert caught.value.log_tail == "Traceback ...\nCUDA out of memory"


async def test_a_failed_model_is_tried_again_after_its_gap(kitchen: Any, model: Any, tmp_path: Path) -> None:
    k = await kitchen(
        model(starts=str(tmp_path / "starts"), crash_at_load=True),
        back_off=BackOff(first=0.05, longest=0.05, crashes=2),
    )
    for _ in range(40):
        with pytest.raises(LoadFailed):
            await k.chat()
        await asyncio.sleep(0.05)
        if k.supervisor.status_of("m").last_error.retry_at is None:
            break
    assert starts(tmp_path / "starts") == 3
    assert "bain load" in k.supervisor.status_of("m").last_error.hint
    assert k.supervisor.status_of("m").restarts == 2
    with pytest.raises(LoadFailed):
        await k.chat()
    assert starts(tmp_path / "starts") == 3
    with pytest.raises(LoadFailed):
        await k.supervisor.load("m")
    assert starts(tmp_path / "starts") == 4
    assert k.supervisor.status_of("m").last_error.retry_at is not None


async def test_an_environment_that_fails(kitchen: Any, model: Any) -> None:
    async def prepare(models: object, report: object) -> object:
        raise EnvironmentFailed("no such package", hint="Correct it.")

    k = await kitchen(model(), prepare=prepare)
    with pytest.raises(EnvironmentFailed, match="no such package"):
        await k.chat()
    with pytest.raises(EnvironmentFailed, match="no such package"):
        await k.chat()
    assert k.states() == ["preparing", "failed"]


async def test_a_defect_in_the_preparation_fails_and_hangs_nobody(kitchen: Any, model: Any) -> None:
    async def prepare(models: object, report: object) -> object:
        raise ZeroDivisionError

    k = await kitchen(model(), prepare=prepare)
    with pytest.raises(LoadFailed, match="ZeroDivisionError"):
        await k.chat()


async def test_a_program_that_is_not_there(kitchen: Any, model: Any, launch_spec: Any, tmp_path: Path) -> None:
    async def prepare(models: Any, report: object) -> object:
        return replace(launch_spec(models[0]), argv=("/no/such/program",))

    k = await kitchen(model(), prepare=prepare)
    with pytest.raises(LoadFailed, match="/no/such/program") as caught:
        await k.chat()
    assert caught.value.code == "spawn_failed"


@pytest.mark.parametrize(
    ("options", "limits", "code"),
    [
        ({"silent": True}, Limits(sign_of_life=0.5, grace=1), "no_sign_of_life"),
        ({"hang_load": True}, Limits(stall=0.3, grace=1), "stalled"),
        ({"load_seconds": 30}, Limits(load=0.5, grace=1), "load_too_long"),
        ({"hang_load": True, "ignore_term": True}, Limits(stall=0.3, grace=0.3), "stalled"),
    ],
)
async def test_every_wait_has_a_limit(kitchen: Any, model: Any, options: Any, limits: Limits, code: str) -> None:
    k = await kitchen(model(**options), limits=limits)
    with pytest.raises(LoadFailed) as caught:
        await k.chat()
    assert caught.value.code == code


async def test_progress_keeps_a_slow_load_alive(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(load_seconds=1.5), limits=Limits(stall=0.5, grace=1))
    assert await k.chat(a=1) == {"a": 1}


async def test_a_gateway_that_was_held_up_itself_cuts_no_load(kitchen: Any, model: Any) -> None:
    """As by Ctrl-Z: the progress of the meantime waits to be read."""
    k = await kitchen(model(load_seconds=1.5), limits=Limits(stall=0.5, grace=1))
    caller = asyncio.create_task(k.chat(a=1))
    await k.until("m", "loading")
    time.sleep(0.8)  # noqa: ASYNC251 (nothing else runs meanwhile: this is what is tried)
    assert await caller == {"a": 1}


async def test_keep_alive_0_unloads_after_the_last_request(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(keep_alive=0, load_seconds=0.1))
    async with k.supervisor.lease("m"), k.supervisor.lease("m"):
        assert k.supervisor.status_of("m").in_flight == 2
    await k.until("m", "unloaded")
    assert k.states() == [*WAY, "stopping", "unloaded"]
    assert await k.chat(a=1) == {"a": 1}


async def test_keep_alive_counts_from_the_last_request(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(keep_alive=0.6))
    for _ in range(4):
        last = time.monotonic()
        await k.chat()
        await asyncio.sleep(0.2)
    await k.until("m", "unloaded")
    assert time.monotonic() - last >= 0.6


async def test_unload_waits_for_requests_and_new_ones_start_anew(kitchen: Any, model: Any) -> None:
    k = await kitchen(model())
    async with k.supervisor.lease("m") as lease:
        pid = k.supervisor.status_of("m").pid
        unload = asyncio.create_task(k.supervisor.unload("m"))
        second = asyncio.create_task(k.supervisor.unload("m"))
        await asyncio.sleep(0)
        late = asyncio.create_task(k.chat(a=2))
        assert await lease.client.json("POST", "/v1/chat/completions", {"a": 1}) == {"a": 1}
        assert not unload.done()
    await unload
    await second
    assert not psutil.pid_exists(pid)
    assert await late == {"a": 2}
    assert k.states() == [*WAY, "stopping", "unloaded", *WAY]


async def test_unload_waits_no_longer_than_its_limit(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(), limits=Limits(drain=0.2, grace=1))
    async with k.supervisor.lease("m") as lease:
        async with lease.client.request("POST", "/v1/chat/completions", b'{"chunks": 100, "gap": 0.1}') as response:
            await k.supervisor.unload("m")
            with pytest.raises(WorkerDied):
                await rest(response)


async def test_unload_ends_a_load_and_those_who_wait_are_told(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(hang_load=True))
    caller = asyncio.create_task(k.chat())
    await k.until("m", "loading")
    await k.supervisor.unload("m")
    with pytest.raises(LoadFailed, match="was unloaded") as caught:
        await caller
    assert caught.value.code == "unloaded"
    assert k.supervisor.status_of("m").state == "unloaded"
    assert k.supervisor.status_of("m").last_error is None


async def test_unload_at_any_moment_leaves_nothing(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(load_seconds=0.05))
    for pause in range(25):
        caller = asyncio.create_task(k.chat())
        await asyncio.sleep(pause * 0.01)
        await k.supervisor.unload("m")
        assert k.supervisor.status_of("m").state in ("unloaded", "preparing")
        await asyncio.gather(caller, return_exceptions=True)


async def test_unload_forgets_a_failure(kitchen: Any, model: Any, tmp_path: Path) -> None:
    k = await kitchen(model(starts=str(tmp_path / "starts"), crash_at_load=True), back_off=BackOff(first=60))
    with pytest.raises(LoadFailed):
        await k.chat()
    await k.supervisor.unload("m")
    assert k.supervisor.status_of("m").state == "unloaded"
    with pytest.raises(LoadFailed):
        await k.chat()
    assert starts(tmp_path / "starts") == 2


async def test_a_killed_worker(kitchen: Any, model: Any, tmp_path: Path) -> None:
    k = await kitchen(model(starts=str(tmp_path / "starts")), back_off=BackOff(first=600))
    async with k.supervisor.lease("m") as lease:
        async with lease.client.request("POST", "/v1/chat/completions", b'{"chunks": 100, "gap": 0.1}') as response:
            os.kill(k.supervisor.status_of("m").pid, signal.SIGKILL)
            with pytest.raises(WorkerDied):
                await rest(response)
    await k.until("m", "failed")
    error = k.supervisor.status_of("m").last_error
    assert error.code == "worker_died"
    assert "SIGKILL" in error.message
    with pytest.raises(LoadFailed) as caught:
        await k.chat()
    assert caught.value.code == "worker_died"
    assert starts(tmp_path / "starts") == 1


async def test_a_killed_worker_is_started_anew_after_its_gap(kitchen: Any, model: Any, tmp_path: Path) -> None:
    k = await kitchen(model(starts=str(tmp_path / "starts")), back_off=BackOff(first=0))
    await k.chat()
    os.kill(k.supervisor.status_of("m").pid, signal.SIGKILL)
    await k.until("m", "failed")
    assert await k.chat(a=1) == {"a": 1}
    assert starts(tmp_path / "starts") == 2
    assert k.supervisor.status_of("m").restarts == 1
    assert k.supervisor.status_of("m").last_error is None


async def test_a_worker_that_dies_in_the_middle_of_its_answer(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(say="my last words"))
    got: list[bytes] = []
    async with k.supervisor.lease("m") as lease:
        body = b'{"chunks": 10, "gap": 0.02, "die_after": 4}'
        async with lease.client.request("POST", "/v1/chat/completions", body) as response:
            with pytest.raises(WorkerDied) as caught:
                await rest(response, got)
    assert b"".join(got) == b"0\n1\n2\n3\n"
    assert caught.value.log_tail == "my last words"


async def test_the_shim_is_killed(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(ignore_term=True))
    await k.chat()
    worker = psutil.Process(k.supervisor.status_of("m").pid)
    worker.parent().kill()
    await k.until("m", "failed")
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running()


async def test_an_adapter_is_loaded_once_and_shares_the_worker(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("m"), model("a", adapter="/a"), model("b", adapter="/b"))
    await asyncio.gather(*(k.chat("a", n=n) for n in range(50)))
    assert [s.state for s in k.supervisor.status()] == ["ready", "ready", "unloaded"]
    assert len({s.pid for s in k.supervisor.status()}) == 1
    async with k.supervisor.lease("m") as lease:
        info = await lease.client.json("GET", "/info")
        assert (info["adapters"], info["adapter_loads"]) == (["a"], 1)


async def test_an_adapter_that_does_not_fit_fails_alone(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("m"), model("a", adapter="/bad"), back_off=BackOff(first=60))
    errors = await asyncio.gather(*(k.chat("a") for _ in range(10)), return_exceptions=True)
    assert {(type(e), e.code, e.message, e.hint) for e in errors} == {
        (LoadFailed, "adapter_mismatch", "it does not fit", "Train.")
    }
    assert await k.chat("m", a=1) == {"a": 1}
    states = {s.id: (s.state, s.last_error and s.last_error.code) for s in k.supervisor.status()}
    assert states == {"m": ("ready", None), "a": ("failed", "adapter_mismatch")}
    with pytest.raises(LoadFailed, match="it does not fit"):
        await k.chat("a")
    async with k.supervisor.lease("m") as lease:
        assert (await lease.client.json("GET", "/info"))["adapter_loads"] == 1
    with pytest.raises(LoadFailed, match="it does not fit"):
        await k.supervisor.load("a")
    async with k.supervisor.lease("m") as lease:
        assert (await lease.client.json("GET", "/info"))["adapter_loads"] == 2


async def test_a_broken_chat_template_fails_its_own_name_alone(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("m"), model("t", chat_template="/bad"), model("u", chat_template="/good"))
    assert await k.chat("m", n=1) == {"n": 1}
    with pytest.raises(LoadFailed, match="it does not fit"):
        await k.chat("t")
    assert await k.chat("u", n=2) == {"n": 2}
    states = {s.id: (s.state, s.last_error and s.last_error.code) for s in k.supervisor.status()}
    assert states == {"m": ("ready", None), "t": ("failed", "adapter_mismatch"), "u": ("ready", None)}
    assert k.states("m") == WAY


async def test_unload_of_an_adapter_leaves_a_base_that_is_used(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("m"), model("a", adapter="/a"))
    await k.chat("m")
    await k.chat("a")
    await k.supervisor.unload("a")
    assert [s.state for s in k.supervisor.status()] == ["ready", "unloaded"]
    assert (await k.chat("a", n=1), k.states("m")) == ({"n": 1}, WAY)
    await k.supervisor.unload("m")
    assert [s.state for s in k.supervisor.status()] == ["unloaded", "unloaded"]


async def test_unload_of_the_last_adapter_ends_the_worker(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("m"), model("a", adapter="/a"))
    await k.chat("a")
    await k.supervisor.unload("a")
    assert [s.state for s in k.supervisor.status()] == ["unloaded", "unloaded"]


async def test_unload_of_an_idle_adapter_leaves_a_load_alone(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("m", load_seconds=0.3), model("a", adapter="/a", load_seconds=0.3))
    caller = asyncio.create_task(k.chat("m", n=1))
    await k.until("m", "loading")
    assert k.supervisor.status_of("a").state == "unloaded"
    await k.supervisor.unload("a")
    assert await caller == {"n": 1}
    assert k.states("m") == WAY


async def test_two_workers_live_apart(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("one", say="1"), model("two", say="2"))
    await asyncio.gather(k.chat("one"), k.chat("two"))
    one, two = k.supervisor.status()
    assert one.pid != two.pid
    os.kill(one.pid, signal.SIGKILL)
    assert await k.chat("two", a=1) == {"a": 1}
    await k.until("one", "failed")
    assert k.supervisor.status_of("two").state == "ready"


async def test_memory_is_measured(kitchen: Any, model: Any) -> None:
    k = await kitchen(model())
    await k.chat()
    async with asyncio.timeout(20):
        while not k.supervisor.status_of("m").memory_bytes:  # noqa: ASYNC110 (asking is what makes it measured)
            await asyncio.sleep(0.01)
    assert 1_000_000 < k.supervisor.status_of("m").memory_bytes < 200_000_000


async def test_lines_that_are_no_events_harm_nobody(kitchen: Any, model: Any, caplog: pytest.LogCaptureFixture) -> None:
    k = await kitchen(model(noise=True))
    assert await k.chat(a=1) == {"a": 1}
    assert "not an event" in caplog.text


async def test_close_ends_all_and_refuses_new_leases(kitchen: Any, model: Any) -> None:
    k = await kitchen(model("one"), model("two", say="2"), model("slow", hang_load=True))
    await asyncio.gather(k.chat("one"), k.chat("two"))
    waiting = asyncio.create_task(k.chat("slow"))
    await k.until("slow", "loading")
    await k.supervisor.close()
    assert [s.state for s in k.supervisor.status()] == ["unloaded"] * 3
    with pytest.raises(OverCapacity):
        await k.chat("one")
    with pytest.raises(BainError):
        await waiting


async def test_who_waits_for_a_fresh_start_does_not_outlive_close(kitchen: Any, model: Any) -> None:
    k = await kitchen(model(ignore_term=True), limits=Limits(grace=0.3))
    await k.chat()
    unload = asyncio.create_task(k.supervisor.unload("m"))
    await k.until("m", "stopping")
    late = asyncio.create_task(k.chat())
    await asyncio.sleep(0)
    await k.supervisor.close()
    with pytest.raises(OverCapacity):
        await late
    await unload
    assert k.supervisor.status_of("m").state == "unloaded"
