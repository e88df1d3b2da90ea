"""200 first requests at once, and what the gateway adds to a warm request.

Fake engine, so that nothing but the way is measured. Beside it, the same bytes sent to the worker's socket directly.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import aiohttp
import httpx2
from _gateway import gateway, table

REQUESTS = 300
PATH = "/v1/chat/completions"
BODY = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "Hello there"}]}).encode()
HEADERS = {"Content-Type": "application/json"}


def main() -> None:
    with gateway("version: 1\nmodels: {echo: {engine: fake}}\n") as address:
        seconds, codes = asyncio.run(burst(address))
        with httpx2.Client(base_url=address) as http:
            [status] = [m for m in http.get("/api/status").json()["models"] if m["id"] == "echo"]
        [socket] = Path(os.environ["BAIN_HOME"], "run").glob("*.sock")
        through = asyncio.run(warm(aiohttp.TCPConnector, address))
        direct = asyncio.run(warm(lambda: aiohttp.UnixConnector(str(socket)), "http://worker"))
    table(
        "200 first requests at once (fake engine)",
        ("answered with 200", "weights loaded, times", "restarts", "until the last answer, s"),
        [(codes.count(200), status["info"]["loads"], status["restarts"], seconds)],
    )
    table(
        f"One warm request (median of {REQUESTS}, one client)",
        ("way", "ms"),
        [("through the gateway", through), ("straight to the worker's socket", direct), ("added", through - direct)],
    )


async def burst(address: str) -> tuple[float, list[int]]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> int:
            async with session.post(address + PATH, data=BODY, headers=HEADERS) as response:
                await response.read()
                return response.status

        began = perf_counter()
        codes = await asyncio.gather(*(ask() for _ in range(200)))
        return perf_counter() - began, list(codes)


async def warm(connector: Callable[[], aiohttp.BaseConnector], address: str) -> float:
    """Median milliseconds of one request after another."""
    seconds = []
    async with aiohttp.ClientSession(connector=connector()) as session:
        for _ in range(REQUESTS):
            began = perf_counter()
            async with session.post(address + PATH, data=BODY, headers=HEADERS) as response:
                assert response.status == 200
                await response.read()
            seconds.append(perf_counter() - began)
    return statistics.median(seconds) * 1000


if __name__ == "__main__":
    main()
