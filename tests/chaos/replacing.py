"""For tests in which one gateway follows another: the next one, models that note their starts, clients that ask on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
from tests.chaos.conftest import House, model
from tests.conftest import BAIN, clean_environ


@asynccontextmanager
async def another(house: House, *options: str) -> AsyncIterator[dict[str, Any]]:
    """A further gateway of that home; what it says when it serves or gives up. It is told to stop at the end."""
    with (house.folder / "another.log").open("a") as log:
        process = await asyncio.to_thread(
            subprocess.Popen,
            [str(BAIN), "up", "--announce", *options, "--config", str(house.folder / "bain.yaml")],
            cwd=house.folder,
            env=clean_environ(house.home),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        told = json.loads(line) if line else {"error": (house.folder / "another.log").read_text()}
        yield told | {"process": process}
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)
        process.stdout.close()


def two_models(folder: Path) -> dict[str, Any]:
    """One behind a port, one behind a unix socket; each notes its starts in a file."""
    return {
        "a": model("--log", str(folder / "a.starts"), "--token-seconds", "0.01"),
        "b": model("--log", str(folder / "b.starts"), listen="--socket={socket}"),
    }


def starts(folder: Path, name: str) -> list[str]:
    lines = (folder / f"{name}.starts").read_text().splitlines()
    return [line for line in lines if line.startswith("start")]


class Stream:
    """Clients that ask all the time, each over one connection that it keeps open."""

    def __init__(self, house: House, clients: int) -> None:
        self._house = house
        self.waits: list[float] = []
        self.failed: list[str] = []
        self._over = False
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]

    async def _client(self, number: int) -> None:
        async with httpx2.AsyncClient(base_url=self._house.http.base_url, timeout=60, trust_env=False) as http:
            while not self._over:
                body = {"model": "ab"[number % 2], "messages": [], "n": 2, "stream": number % 4 > 1, "tag": number}
                began = time.monotonic()
                try:
                    answer = await http.post("/v1/chat/completions", json=body)
                except httpx2.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                self.waits.append(time.monotonic() - began)
                if answer.status_code != 200 or (body["stream"] and not answer.text.endswith("data: [DONE]\n\n")):
                    self.failed.append(answer.text)

    async def more(self, count: int) -> None:
        """Returns when so many further requests were answered."""
        enough = len(self.waits) + count
        async with asyncio.timeout(60):
            while len(self.waits) < enough:
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
