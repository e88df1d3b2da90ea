"""A wait that is fair to whoever was in time."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from bainmarie.workers.deadlines import until


async def test_what_came_in_time_counts_where_nobody_could_read_it() -> None:
    loop, mail = asyncio.get_running_loop(), asyncio.Queue[bytes]()
    read, write = os.pipe()
    loop.add_reader(read, lambda: mail.put_nowait(os.read(read, 1)))
    try:
        async with until(loop.time() + 0.05):
            os.write(write, b"x")
            time.sleep(0.1)  # noqa: ASYNC251 (this process is held up)
            assert await mail.get() == b"x"
    finally:
        loop.remove_reader(read)
        os.close(read)
        os.close(write)


async def test_what_does_not_come_is_given_up() -> None:
    loop = asyncio.get_running_loop()
    at = loop.time() + 0.01
    with pytest.raises(TimeoutError):
        async with until(at):
            await asyncio.Event().wait()
    assert loop.time() >= at
    async with until(None):
        pass


async def test_what_comes_all_the_time_puts_nothing_off() -> None:
    at = asyncio.get_running_loop().time() + 0.05

    async def come() -> None:
        for _ in range(1000):
            async with until(at):
                await asyncio.sleep(0.01)

    with pytest.raises(TimeoutError):
        await come()
