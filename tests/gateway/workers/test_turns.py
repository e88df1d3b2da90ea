"""Turns at a model: in order, bounded, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from bainmarie.errors import OverCapacity, QueueFull
from bainmarie.workers.turns import Turns, retry_after


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_first_come_first_served_and_the_line_is_bounded() -> None:
    turns, order, go = Turns("m", 1, 3), list[int](), asyncio.Event()

    async def use(number: int) -> None:
        async with turns.turn():
            order.append(number)
            await go.wait()

    tasks = [asyncio.create_task(use(number)) for number in range(4)]
    await settled()
    assert order == [0]
    with pytest.raises(QueueFull) as full:
        turns.check()
    assert (full.value.status, full.value.retry_after) == (429, 15)
    go.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]
    turns.check()


async def test_who_leaves_gives_the_turn_to_the_next() -> None:
    turns, order, go = Turns("m", 1, 9), list[int](), asyncio.Event()

    async def use(number: int) -> None:
        async with turns.turn():
            order.append(number)
            await go.wait()

    tasks = [asyncio.create_task(use(number)) for number in range(4)]
    await settled()
    tasks[1].cancel()
    tasks[0].cancel()  # the turn passes to 2 ...
    await settled()
    tasks[2].cancel()  # ... and from it to 3
    await settled()
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 2, 3]
    async with turns.turn():
        pass


async def test_a_turn_that_comes_as_its_caller_leaves_is_not_lost() -> None:
    turns = Turns("m", 1, 9)
    first = turns.turn()
    await first.__aenter__()
    second = asyncio.create_task(turns.turn().__aenter__())
    await settled()
    await first.__aexit__(None, None, None)
    second.cancel()  # in the same moment
    await asyncio.wait({second})
    async with asyncio.timeout(5), turns.turn():
        pass


async def test_closing_tells_those_who_wait() -> None:
    turns, go = Turns("m", 1, 9), asyncio.Event()

    async def use() -> str:
        async with turns.turn():
            await go.wait()
            return "done"

    tasks = [asyncio.create_task(use()) for _ in range(3)]
    await settled()
    turns.close(OverCapacity("it stops", code="shutting_down"))
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == "done"
    assert [type(error) for error in results[1:]] == [OverCapacity] * 2
    with pytest.raises(OverCapacity, match="it stops"):
        turns.check()


async def test_more_room_is_used_at_once() -> None:
    turns, order, go = Turns("m", 1, 9), list[int](), asyncio.Event()

    async def use(number: int) -> None:
        async with turns.turn():
            order.append(number)
            await go.wait()

    tasks = [asyncio.create_task(use(number)) for number in range(3)]
    await settled()
    turns.limit(3, 9)
    await settled()
    assert order == [0, 1, 2]
    go.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("waiting", "parallel", "seconds", "after"), [(0, 1, 0.1, 1), (10, 2, 1.0, 5), (10**6, 1, 9.0, 600)]
)
def test_when_to_try_again(waiting: int, parallel: int, seconds: float, after: int) -> None:
    assert retry_after(waiting, parallel, seconds) == after
