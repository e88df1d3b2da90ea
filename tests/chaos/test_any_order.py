"""Loads, requests, kills, stops, edits, gateway murders and the like in any order: never two processes of a model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.chaos.conftest import PATIENCE, House, Measured, model, running, times
from tests.conftest import BAIN, clean_environ

NAMES = ("a", "b")
CODES = {200, 404, 429, 502, 503}
_late: list[float] = [0.0]
"""How long the status differed from the truth, at most."""
_steps: list[str] = []


class AnyOrder(RuleBasedStateMachine):
    """One gateway, murdered or replaced now and then; two models."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.temporary = TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.since_murder = 0
        self.grown = dict.fromkeys(NAMES, 0)
        self.up()

    def configuration(self) -> dict[str, Any]:
        models = {n: model(f"--log={self.folder / n}", "--load=0.1", f"--grow={g}") for n, g in self.grown.items()}
        limits = {"retry_gap": 0.05, "stop_grace": 1, "silence_limit": 1, "probe_limit": 0.5, "stall_limit": 3}
        return {"version": 1, "models": models, "workers": limits}

    def up(self) -> None:
        self.context: AbstractAsyncContextManager[House] = running(self.folder, self.configuration())
        self.house = self.run(self.context.__aenter__())
        self.gateways = [self.house.process]

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(name=st.sampled_from(NAMES))
    def load(self, name: str) -> None:
        answer = self.run(self.house.http.post("/models/load", json={"model": name, "wait": True}))
        assert answer.status_code == 200, answer.text
        self.check("load")

    @rule(name=st.sampled_from(NAMES))
    def unload(self, name: str) -> None:
        self.run(self.house.unload(name))
        self.check("unload")

    @rule(name=st.sampled_from(NAMES))
    def ask(self, name: str) -> None:
        assert self.run(self.house.ask(name, n=2)).status_code in CODES
        self.check("ask")

    @rule(name=st.sampled_from(NAMES), after=st.floats(0, 0.5))
    def ask_and_leave(self, name: str, after: float) -> None:
        async def leave() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(after):
                    await self.house.ask(name, n=1)

        self.run(leave())
        self.check("ask_and_leave")

    @rule(name=st.sampled_from(NAMES))
    def kill_worker(self, name: str) -> None:
        for process in self.servers(name):
            process.kill()
        self.check("kill_worker")

    @rule(name=st.sampled_from(NAMES))
    def stop_worker(self, name: str) -> None:
        """It hangs from now on. Whoever asks it next is told so, and the one after that is served."""
        for process in self.servers(name):
            process.suspend()
        self.check("stop_worker")

    @rule(name=st.sampled_from(NAMES))
    def edit(self, name: str) -> None:
        self.grown[name] += 1
        self.house.configure(json.dumps(self.configuration()))
        self.check("edit")

    @rule()
    @precondition(lambda self: self.since_murder > 7)  # a start takes longer than all else
    def murder(self) -> None:
        self.gateways[-1].kill()
        self.end()
        self.up()
        self.check("murder")

    @rule()
    @precondition(lambda self: self.since_murder > 7)
    def replace(self) -> None:
        """A new gateway goes on with the workers; the old one ends when its connections have."""
        command = [str(BAIN), "up", "--announce", "--replace", "--config", str(self.folder / "bain.yaml")]
        with (self.folder / "replace.log").open("a") as log:
            process = subprocess.Popen(
                command, env=clean_environ(self.house.home), stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert process.stdout is not None
        with process.stdout as stdout:
            assert "address" in json.loads(stdout.readline()), (self.folder / "replace.log").read_text()
        self.gateways.append(process)
        self.check("replace")

    def end(self) -> None:
        for process in self.gateways[1:]:
            process.terminate()
            process.wait(30)
        self.run(self.context.__aexit__(None, None, None))

    def servers(self, name: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                words = process.cmdline()
                if words[3:4] and words[3].endswith("a_server.py") and f"--log={self.folder / name}" in words:
                    found.append(process)
        return found

    def check(self, step: str) -> None:
        _steps.append(step)
        self.since_murder = 0 if step in ("murder", "replace") else self.since_murder + 1
        began = time.monotonic()
        while wrong := self.differs():
            assert time.monotonic() - began < PATIENCE, wrong
            time.sleep(0.02)
        _late[0] = max(_late[0], time.monotonic() - began)

    def differs(self) -> str:
        for name in NAMES:
            alive = self.servers(name)
            assert len(alive) <= 1, f"two processes of {name}: {alive}"
            status = self.run(self.house.status(name))
            pids = [process.pid for process in alive]
            if status["state"] in ("ready", "unloaded", "failed") and pids != [status["pid"]] * (status["pid"] > 0):
                return f"{name} is told to be {status['state']} with pid {status['pid']}; there are {pids}"
        return ""

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.end()
            self.runner.close()
            self.temporary.cleanup()


def test_any_order(measured: Measured) -> None:
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=times(1, 15),
            stateful_step_count=times(15, 40),
            deadline=None,
            database=None,
            phases=[Phase.generate],  # nothing is the same in a second run: no failure can be made smaller
            suppress_health_check=list(HealthCheck),
        ),
    )
    measured(
        "load, unload, request, cancel, kill, stop, edit, gateway murder, gateway replaced in any order (hypothesis)",
        "at most one live process per model; reported state equals the system's truth within 2 s",
        f"{len(_steps)} steps: never two; the state was true after {_late[0]:.2f} s at most",
    )
