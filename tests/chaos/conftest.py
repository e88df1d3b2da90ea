"""The gateway as clients see it, broken on purpose. This process is a subreaper: no orphan can hide from it.

Each promise is tried a few times in every test run, and as often as docs/reliability.md says by `./run test chaos`,
which writes the table there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.conftest import BAIN, ROOT, clean_environ

LONG = os.environ.get("BAIN_CHAOS") == "long"
A_SERVER = Path(__file__).with_name("a_server.py")
A_CROWD = Path(__file__).with_name("a_crowd.py")
PATIENCE = 20.0
"""Seconds after which something that should have happened fails a test; what is promised is measured."""
TABLE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->\n"
Measured = Callable[[str, str, str], None]
_rows: dict[str, tuple[str, str]] = {}


def times(few: int, many: int) -> int:
    """How often something is tried."""
    return many if LONG else few


@pytest.fixture(scope="module", autouse=True)
def orphans_come_here(subreaper: None) -> None:
    """For every test of this folder."""


@pytest.fixture
def measured() -> Callable[[str, str, str], None]:
    """(fault, promise, what was measured): one row of the table."""

    def add(fault: str, promise: str, found: str) -> None:
        print(f"{fault} | {promise} | {found}")
        _rows[fault] = (promise, found)

    return add


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The long form writes its rows into the documentation; rows of tests that were not run stay."""
    if not LONG or not _rows:
        return
    before, _, rest = TABLE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    kept = [tuple(cell.strip() for cell in line.strip("|\n ").split("|")) for line in old.splitlines()[2:]]
    rows = {row[0]: (row[1], row[2]) for row in kept if len(row) == 3} | _rows
    lines = [f"| {fault} | {promise} | {found} |" for fault, (promise, found) in rows.items()]
    head = "| fault | promise | measured |\n|---|---|---|\n"
    TABLE.write_text(f"{before}{BEGIN}{head}{chr(10).join(lines)}\n{END}{after}", encoding="utf-8")


def model(*arguments: str, listen: str = "--port={port}", **keys: Any) -> dict[str, Any]:
    """A model whose worker is a_server.py."""
    command = [sys.executable, "-I", "-S", str(A_SERVER), listen, *arguments]
    return {"engine": "command", "command": command, **keys}


@dataclass
class House:
    """A gateway process, its file, and what is below it."""

    process: subprocess.Popen[str]
    http: httpx2.AsyncClient
    folder: Path
    home: Path

    def configure(self, text: str) -> None:
        """Replaces bain.yaml as a whole, as editors do."""
        draft = self.folder / "bain.yaml.new"
        draft.write_text(text)
        draft.replace(self.folder / "bain.yaml")

    async def ask(self, name: str, **body: Any) -> httpx2.Response:
        return await self.http.post("/v1/chat/completions", json={"model": name, "messages": [], **body})

    async def status(self, name: str) -> dict[str, Any]:
        models = (await self.http.get("/api/status")).json()["models"]
        return next(m for m in models if m["id"] == name)

    async def load(self, name: str) -> dict[str, Any]:
        answer = await self.http.post("/models/load", json={"model": name, "wait": True})
        assert answer.status_code == 200, answer.text
        return await self.status(name)

    async def unload(self, name: str) -> None:
        assert (await self.http.post("/models/unload", json={"model": name})).status_code == 200

    async def until(self, name: str, *states: str) -> dict[str, Any]:
        """Waits until the model is in one of the states."""
        async with asyncio.timeout(PATIENCE):
            while (status := await self.status(name))["state"] not in states:
                await asyncio.sleep(0.01)
        return status

    async def busy(self, name: str) -> None:
        """Waits until the model has a request under way."""
        async with asyncio.timeout(PATIENCE):
            while not (await self.status(name))["in_flight"]:
                await asyncio.sleep(0.01)

    async def fill_pool(self, name: str) -> None:
        """The gateway's pool of threads grows to its bound, one for each job that finds none idle."""
        own, threads, same = psutil.Process(self.process.pid), 0, 0
        open_before = own.num_fds()
        async with httpx2.AsyncClient(base_url=self.http.base_url, timeout=120, trust_env=False) as http:
            while same < 3:
                await asyncio.gather(*(http.get(f"/api/models/{name}/plan") for _ in range(64)))
                same = 0 if own.num_threads() > threads else same + 1
                threads = own.num_threads()
        async with asyncio.timeout(PATIENCE):
            while own.num_fds() > open_before:  # until those connections are closed there too
                await asyncio.sleep(0.01)

    def below(self) -> set[psutil.Process]:
        return set(psutil.Process(self.process.pid).children(recursive=True))

    def shims(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


Configuration = dict[str, Any]


@asynccontextmanager
async def running(folder: Path, configuration: Configuration, **variables: str) -> AsyncIterator[House]:
    """A gateway, with more environment variables; at the end it is told to stop, and must leave nothing."""
    folder.mkdir(exist_ok=True, parents=True)
    home, file = folder / "home", folder / "bain.yaml"
    file.write_text(json.dumps({"version": 1, **configuration}))
    before = set(psutil.Process().children(recursive=True))
    with (folder / "gateway.log").open("a") as log:
        process = subprocess.Popen(
            [str(BAIN), "up", "--lifeline", "--port", "0", "--config", str(file)],
            cwd=folder,
            env=clean_environ(home) | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    assert process.stdin is not None
    line = await asyncio.to_thread(process.stdout.readline)
    told = json.loads(line) if line else {"error": (folder / "gateway.log").read_text()}
    if "error" in told:
        process.wait(20)
        process.stdin.close()
        process.stdout.close()
        raise AssertionError(told["error"])
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    try:
        async with httpx2.AsyncClient(base_url=told["address"], timeout=120, limits=limits, trust_env=False) as http:
            yield House(process, http, folder, home)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()
        await nothing_left(before)


async def crowded(house: House, seconds: float, rate: float, body: dict[str, Any]) -> dict[str, Any]:
    """What a_crowd.py tells."""
    arguments = (str(house.http.base_url.port), str(seconds), str(rate), json.dumps(body))
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(A_CROWD), *arguments, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await crowd.communicate()
    assert crowd.returncode == 0
    found: dict[str, Any] = json.loads(told)
    return found


async def nothing_left(before: set[psutil.Process]) -> float:
    """Seconds until no process but those of `before` is below this one; fails when one stays."""
    began = time.monotonic()
    while left := set(psutil.Process().children(recursive=True)) - before:
        for process in left:
            reap(process)
        if time.monotonic() - began > PATIENCE:
            told = [f"{p.pid} {' '.join(p.cmdline()[-4:])}" for p in left]
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            pytest.fail(f"left behind: {told}")
        await asyncio.sleep(0.002)
    return time.monotonic() - began


def reap(process: psutil.Process) -> None:
    """Collects a dead orphan; its like may vanish by itself between two looks."""
    with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
        if process.ppid() == os.getpid() and process.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(process.pid, os.WNOHANG)


def at(values: list[float], part: float) -> float:
    """The value below which that part of the values lies; not a number where there are none."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else math.nan
