"""How a worker begins and ends, with the fake engine where no model is needed."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import stat

import pytest

from bainmarie_protocol import Failed, Listening, Progress, Ready

STREAM = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "a b c d"}]}'


def test_the_order_of_events_and_a_private_socket(start_worker):
    worker = start_worker("nowhere", engine="fake", options={"hang_load": True})
    assert worker.next_event() == Listening(worker.process.pid, 0)
    assert stat.S_IMODE(os.stat(worker.config.socket).st_mode) == 0o600
    reply = worker.chat("Hello")
    assert (reply.status, reply.json["error"]["code"]) == (503, "loading")
    assert worker.get("/info").json["loads"] == 0


def test_progress_comes_before_ready(start_fake):
    worker = start_fake(load_seconds=0.5)
    kinds = [type(event) for event in worker.events]
    assert kinds[0] is Listening
    assert kinds[-1] is Ready
    assert set(kinds[1:-1]) == {Progress}
    assert worker.events[-1].info["loads"] == 1
    assert worker.events[-2] == Progress("weights", 1000, 1000, "bytes")


@pytest.mark.parametrize("options", [{}, {"hang_load": True}])
def test_the_end_of_stdin_ends_it(start_worker, options):
    worker = start_worker("nowhere", engine="fake", options=options)
    worker.until(Progress)
    assert worker.end() in (0, -signal.SIGIO)


def test_a_ready_worker_leaves_no_socket_behind(start_fake):
    worker = start_fake()
    assert worker.end() == 0
    assert not os.path.exists(worker.config.socket)


def test_the_end_of_stdin_ends_a_real_load(start_worker, family):
    worker = start_worker(family.base)
    worker.until(Listening)
    assert worker.end() in (0, -signal.SIGIO)


def test_sigterm_cancels_and_ends_with_status_0(start_fake):
    worker = start_fake(token_seconds=60)
    connection = worker.connect()
    connection.request("POST", "/v1/chat/completions", STREAM)
    while worker.get("/info").json["running"] == 0:
        pass
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(timeout=60) == 0
    with contextlib.closing(connection):
        response = connection.getresponse()
        assert response.status in (200, 503)
        assert b"stop" in response.read()
    assert not os.path.exists(worker.config.socket)


def test_a_failed_load_says_why_and_ends_with_status_1(start_fake):
    worker = start_fake(fail_load="out_of_memory")
    assert isinstance(worker.events[-1], Failed)
    assert worker.events[-1].code == "out_of_memory"
    assert worker.process.wait(timeout=60) == 1


def test_a_directory_without_config_json_fails_before_torch_is_imported(start_worker, tmp_path):
    worker = start_worker(tmp_path)
    failed = worker.until(Failed)
    assert failed.code == "model_incomplete"
    assert "config.json" in failed.message
    assert str(tmp_path) in failed.message
    assert failed.hint
    assert not any(isinstance(event, Progress) and event.stage == "imports" for event in worker.events)
    assert worker.process.wait(timeout=60) == 1


def test_a_crash_on_demand_breaks_the_stream(start_fake):
    worker = start_fake(crash_after_tokens=2)
    connection = worker.connect()
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", STREAM)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            connection.getresponse().read()
    assert worker.process.wait(timeout=60) == 70


def test_ignore_term_leaves_only_harder_ways(start_fake):
    worker = start_fake(ignore_term=True)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.text("still here") == "still here"
    assert worker.end() == 0


def test_a_wrong_configuration_line_is_status_2(start_line):
    assert start_line('{"nme": 1}').wait(timeout=60) == 2


def test_without_a_configuration_line_it_is_status_2(start_line):
    assert start_line("").wait(timeout=60) == 2


def test_a_loopback_worker_asks_for_its_token(start_worker):
    worker = start_worker("nowhere", engine="fake", socket="", token="secret")
    port = worker.until(Listening).port
    for token, status in (("secret", 200), ("guess", 401)):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", "/info", headers={"Authorization": f"Bearer {token}"})
            assert connection.getresponse().status == status
