"""Subscribers hear what is published after they came; a slow one is told what it lost."""

from __future__ import annotations

from bainmarie.events import EventBus


async def test_everybody_hears_everything_from_then_on() -> None:
    bus = EventBus()
    bus.publish("model", {"n": 0})
    async with bus.subscribe() as one, bus.subscribe() as two:
        bus.publish("model", {"n": 1})
        bus.publish("run", {"n": 2})
        for news in (one, two):
            assert [await anext(news), await anext(news)] == [("model", {"n": 1}), ("run", {"n": 2})]


async def test_a_slow_subscriber_loses_the_oldest_and_is_told() -> None:
    bus = EventBus(size=3)
    async with bus.subscribe() as news:
        for n in range(10):
            bus.publish("model", {"n": n})
        assert [await anext(news) for _ in range(4)] == [
            ("lagged", {"lost": 7}),
            *(("model", {"n": n}) for n in (7, 8, 9)),
        ]
        bus.publish("model", {"n": 10})
        assert await anext(news) == ("model", {"n": 10})


async def test_who_left_costs_nothing() -> None:
    bus = EventBus()
    async with bus.subscribe():
        pass
    bus.publish("model", {})
    assert not bus._subscribers
