"""The engine's thread: jobs between steps, defects, and adapters that go while somebody uses them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from dataclasses import dataclass
from itertools import chain

import pytest

from bainmarie_protocol import ServedModel, WorkerConfig
from bainmarie_worker import fake
from bainmarie_worker.engine.engine import DEFECT, Engine
from bainmarie_worker.engine.sequence import Sampling, Sequence
from bainmarie_worker.errors import LoadError
from bainmarie_worker.warm import load_and_warm

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries deprecate among themselves


@dataclass(frozen=True)
class Started:
    engine: Engine
    failure: LoadError | None


async def start(load):
    """An engine whose load has ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[LoadError | None] = loop.create_future()

    def settle(error=None):
        loop.call_soon_threadsafe(ended.set_result, error)

    engine = Engine(load, queue_limit=100)
    engine.start(lambda step: None, settle, settle)
    return Started(engine, await ended)


def faked(**options):
    return lambda report: fake.load(WorkerConfig("m", "fake", "nowhere", (ServedModel("m"),), options=options), report)


def real(path):
    """A tiny model: more threads than the engine's own would only wait for each other."""

    def load(report):
        import torch

        torch.set_num_threads(1)
        return load_and_warm(WorkerConfig("m", "transformers", str(path), (ServedModel("m"),), device="cpu"), report)

    return load


def words(engine, count):
    """A sequence that the fake engine answers with so many words."""
    return Sequence(tuple(engine.runner.tokenizer.encode("word " * count, special=False)), count)


async def rest(stream):
    return [token async for tokens in stream for token in tokens]


async def test_a_job_runs_on_the_engines_thread_between_two_steps():
    engine = (await start(faked(token_seconds=0.001))).engine
    stream = engine.submit(words(engine, 100_000))
    await stream.started()
    seen = []
    await engine.call(lambda runner, report: seen.append((threading.current_thread().name, runner.running)))
    assert seen == [("engine", 1)]
    assert engine.counters.running == 1
    finish = await stream.drain()
    assert 0 < finish.generated < 100_000


async def test_jobs_keep_their_order_and_their_errors():
    engine = (await start(faked())).engine
    done = []

    def wrong(runner, report):
        raise LoadError("adapter_mismatch", "no", "Do not.")

    calls = [engine.call(lambda runner, report, n=number: done.append(n)) for number in range(20)]
    results = await asyncio.gather(*calls, engine.call(wrong), return_exceptions=True)
    assert done == list(range(20))
    assert results[:20] == [None] * 20
    assert isinstance(results[20], LoadError)
    stream = engine.submit(words(engine, 5))
    assert len(await rest(stream)) == 5


async def test_answers_side_by_side_come_in_fewer_pieces_and_their_ends_at_once():
    """A token each millisecond, each 10 ms a piece for each of the two, none missing and none twice."""
    engine = (await start(faked(token_seconds=0.001, batch=2))).engine
    other = engine.submit(words(engine, 100_000))
    await other.started()
    stream = engine.submit(words(engine, 300))
    loop = asyncio.get_running_loop()
    began = loop.time()
    pieces = [tokens async for tokens in stream]
    assert list(chain.from_iterable(pieces)) == list(stream.sequence.prompt[:300])
    assert len(pieces) <= (loop.time() - began) / (2 / 200) + 2  # the first and the last wait for nothing
    await other.drain()


async def test_an_answer_alone_comes_as_it_is_made():
    engine = (await start(faked(token_seconds=0.02))).engine
    pieces = [tokens async for tokens in engine.submit(words(engine, 10))]
    assert len(pieces) > 1
    assert sum(map(len, pieces)) == 10


async def test_a_job_is_put_off_until_it_may_run():
    engine = (await start(faked(token_seconds=0.001))).engine
    stream = engine.submit(words(engine, 100_000))
    await stream.started()
    seen = []
    job = asyncio.ensure_future(
        engine.call(lambda runner, report: seen.append(runner.running), unless=lambda runner: runner.running > 0)
    )
    for _ in range(3):
        await engine.call(lambda runner, report: None)
    assert seen == []
    assert not job.done()
    await stream.drain()
    await job
    assert seen == [0]


async def test_a_load_that_fails_says_so_and_nothing_runs():
    started = await start(faked(fail_load="out_of_memory"))
    assert started.failure is not None
    assert started.failure.code == "out_of_memory"
    assert started.engine.counters.loads == 0


async def test_what_a_load_raises_besides_is_a_failed_load_too():
    def load(report):
        raise ZeroDivisionError("a defect")

    started = await start(load)
    assert started.failure is not None
    assert started.failure.code == "load_failed"
    assert "ZeroDivisionError: a defect" in started.failure.message


async def test_an_adapter_goes_when_the_last_one_that_uses_it_has_ended(family):
    engine = (await start(real(family.base))).engine
    adapter = str(family.adapter)
    asked = Sequence(tuple(range(5, 30)), 60, Sampling(), adapter, ignore_eos=True)
    alone = await rest(engine.submit(asked))
    stream = engine.submit(asked)
    await stream.started()
    gone = asyncio.ensure_future(
        engine.call(lambda runner, report: runner.unload_adapter(adapter), unless=lambda runner: runner.uses(adapter))
    )
    tokens = await rest(stream)
    await gone
    assert tokens == alone
    assert len(tokens) == 60
    again = engine.submit(asked)
    assert await rest(again) == alone
    assert again.finish is not None
    assert again.finish.cached == 0, "what was kept went with the adapter"


async def test_an_unload_waits_for_the_sequences_that_need_the_adapter(family):
    """Jobs that are put off are looked at after every step: this one sees the adapter in use first."""
    engine = (await start(real(family.base))).engine
    adapter = str(family.adapter)
    stream = engine.submit(Sequence((5, 6, 7), 60, Sampling(), adapter, ignore_eos=True))
    looks = []

    def in_use(runner):
        looks.append(runner.uses(adapter))
        return looks[-1]

    await engine.call(lambda runner, report: runner.unload_adapter(adapter), unless=in_use)
    assert len(looks) > 10
    assert looks == [True] * (len(looks) - 1) + [False]
    assert len(await rest(stream)) == 60


def test_a_defect_in_a_step_ends_the_process_with_its_own_status(start_fake):
    """Of every request that is there none is left waiting."""
    worker = start_fake(token_seconds="soon")  # no number: the step that waits so long raises
    connections = [worker.connect() for _ in range(3)]
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "a b c"}]})
    for connection in connections:
        with contextlib.suppress(ConnectionError):
            connection.request("POST", "/v1/chat/completions", body)
    for connection in connections:
        with (
            contextlib.closing(connection),
            pytest.raises((http.client.HTTPException, OSError)),
        ):
            connection.getresponse().read()
    assert worker.process.wait(timeout=60) == DEFECT == 71
