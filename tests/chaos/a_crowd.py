"""Clients who come at a fixed rate, whether they are answered or not, and measure from the moment they meant to send.

A script of the standard library alone, in a process of its own: what it measures is not its own waiting for the test.

    a_crowd.py PORT SECONDS RATE BODY   RATE requests a second to /v1/chat/completions with that body
    stdout                              JSON: {"codes": {code: count}, "refused": [seconds], "hints": [Retry-After],
                                        "health": [seconds], "late": [seconds], "processor": seconds,
                                        "served": [[when it was meant, seconds]]}
"late" is how long after its time a request was sent: where that is long, the crowd itself had no processor. The
system's monotonic clock says when.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
KEPT = 2.0
"""Seconds for which an idle connection is used again."""


class Crowd:
    def __init__(self, port: int, body: bytes) -> None:
        self.port = port
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.free: list[tuple[float, Connection]] = []
        self.codes = Counter[int]()
        self.refused: list[float] = []
        self.hints: list[int] = []
        self.health: list[float] = []
        self.late: list[float] = []
        self.served: list[tuple[float, float]] = []

    async def come(self, seconds: float, rate: float) -> None:
        loop = asyncio.get_running_loop()
        began, coming = loop.time(), []
        watching = asyncio.create_task(self.watch(began + seconds))
        for number in range(int(seconds * rate)):
            meant = began + number / rate
            await asyncio.sleep(meant - loop.time())
            coming.append(asyncio.create_task(self.ask(meant)))
        await asyncio.gather(watching, *coming)

    async def ask(self, meant: float) -> None:
        now = asyncio.get_running_loop().time
        self.late.append(now() - meant)
        code, head = await self.exchange(self.request)
        self.codes[code] += 1
        if code == 200:
            self.served.append((meant, now() - meant))
        if code == 429:
            self.refused.append(now() - meant)
            self.hints.append(int(head["retry-after"]))

    async def watch(self, end: float) -> None:
        now = asyncio.get_running_loop().time
        while (began := now()) < end:
            code, _ = await self.exchange(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert code == 200
            self.health.append(now() - began)
            await asyncio.sleep(0.05)

    async def exchange(self, request: bytes) -> tuple[int, dict[str, str]]:
        reader, writer = self.take() or await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        head = dict(line.split(": ", 1) for line in lines if line)
        await reader.readexactly(int(head["content-length"]))
        self.free.append((asyncio.get_running_loop().time(), (reader, writer)))
        return int(first.split()[1]), head

    def take(self) -> Connection | None:
        """A connection that was used just now; servers close those that were not."""
        now = asyncio.get_running_loop().time()
        while self.free:
            since, connection = self.free.pop()
            if now - since < KEPT:
                return connection
            connection[1].close()
        return None


def main() -> None:
    port, seconds, rate, body = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4].encode()
    crowd = Crowd(port, body)
    asyncio.run(crowd.come(seconds, rate))
    told = {name: getattr(crowd, name) for name in ("codes", "refused", "hints", "health", "late", "served")}
    print(json.dumps({**told, "processor": time.process_time()}))


if __name__ == "__main__":
    main()
