"""A client that leaves frees the engine, whatever the engine is doing for it."""

from __future__ import annotations

import contextlib
import json

import pytest


def ask(worker, **fields):
    """A request whose answer nobody reads yet."""
    connection = worker.connect()
    body = {"model": "m", "messages": [{"role": "user", "content": "a b c d e f g h"}], **fields}
    connection.request("POST", "/v1/chat/completions", json.dumps(body).encode())
    return connection


def wait_for(worker, **counters):
    while True:
        info = worker.get("/info").json
        if counters.items() <= info.items():
            return


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.timeout(60)
def test_before_the_first_token(start_fake, stream):
    worker = start_fake(token_seconds=3600)
    with contextlib.closing(ask(worker, stream=stream)):
        wait_for(worker, running=1)
    wait_for(worker, running=0)


@pytest.mark.timeout(60)
def test_while_it_waits_in_the_queue(start_fake):
    worker = start_fake(token_seconds=3600)
    with contextlib.closing(ask(worker)):
        wait_for(worker, running=1)
        with contextlib.closing(ask(worker)):
            wait_for(worker, queued=1)
        wait_for(worker, running=1, queued=1)
    wait_for(worker, running=0, queued=0)


@pytest.mark.parametrize("stream", [False, True])
def test_in_the_middle_of_a_real_answer(worker, stream):
    busy = ask(worker, stream=stream, max_tokens=400, temperature=0)
    with contextlib.closing(busy):
        if stream:
            assert busy.getresponse().readline().startswith(b"data: ")
        else:
            wait_for(worker, running=1)
    wait_for(worker, running=0, queued=0)
    assert worker.chat("Hello", max_tokens=1).status == 200


def test_a_full_queue_says_so(start_worker):
    from bainmarie_protocol import Ready

    worker = start_worker("nowhere", engine="fake", options={"token_seconds": 3600}, queue=1)
    worker.until(Ready)
    with contextlib.closing(ask(worker)):
        wait_for(worker, running=1)
        with contextlib.closing(ask(worker)):
            wait_for(worker, queued=1)
            reply = worker.chat("one too many")
    assert (reply.status, reply.json["error"]["code"]) == (503, "queue_full")


@pytest.mark.timeout(60)
def test_what_does_not_fit_into_the_queue_as_a_whole_leaves_nothing_in_it(start_worker):
    from bainmarie_protocol import Ready

    worker = start_worker("nowhere", engine="fake", options={"token_seconds": 3600}, queue=3)
    worker.until(Ready)
    reply = worker.chat("too many answers", n=8)
    assert (reply.status, reply.json["error"]["code"]) == (503, "queue_full")
    wait_for(worker, running=0, queued=0)
