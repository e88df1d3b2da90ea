"""A worker of the standard library alone, with the faults that tests ask for in `options`. Run as a script.

before: {"starts": file}        appends its pid: counts starts
        {"ignore_term": true}   TERM does nothing
        {"daemon": file}        a grandchild detaches itself (setsid, double fork), ignores TERM; its pid goes there
        {"flood": bytes}        writes that much to stderr
        {"say": text}           one line to stderr
        {"silent": true}        never says a word, lives on
load:   {"load_seconds": s}     with progress
        {"hang_load": true}     listens, then makes no progress
        {"crash_at_load": true} exits with 3 and a last line on stderr
        {"fail_load": code}     says `failed`
ready:  {"noise": true}         lines on stdout that are no events
served: CHAT echoes the body; {"chunks": n, "gap": s} streams n numbered chunks; {"die_after": n} kills itself then
        LOAD of an adapter whose directory ends with "bad" is a 400 adapter_mismatch
        INFO {"adapters": [...], "adapter_loads": n, "variables": {...}}
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from bainmarie_protocol import Failed, Listening, Progress, Ready, WorkerConfig, encode_event, paths


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line:
        return
    config = WorkerConfig.from_json(line.decode())
    threading.Thread(target=follow_lifeline, args=(config,), daemon=True).start()
    do = config.options
    before(do)
    server = Server(config.socket, Requests)
    server.adapters, server.adapter_loads = [], 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(Listening(os.getpid()))
    load(do)
    if do.get("noise"):
        os.write(1, b"hello\n{}\n" + b"x" * 100_000 + b"\n")
    say(Ready({"engine": "a_worker", "pid": os.getpid()}))
    threading.Event().wait()


def follow_lifeline(config: WorkerConfig) -> None:
    os.read(0, 1)
    if not config.options.get("ignore_term"):
        os._exit(0)


def before(do: dict[str, Any]) -> None:
    if "starts" in do:
        with open(do["starts"], "a") as file:
            file.write(f"{os.getpid()}\n")
    if do.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "daemon" in do:
        detach(do["daemon"])
    if "say" in do:
        os.write(2, do["say"].encode() + b"\n")
    left = do.get("flood", 0)
    while left > 0:
        left -= os.write(2, b"%015d\n" % left * 4096)
    if do.get("silent"):
        threading.Event().wait()


def detach(file: str) -> None:
    if os.fork():
        os.wait()
        while not os.path.exists(file):
            time.sleep(0.001)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(file + ".part", "w") as out:
        out.write(str(os.getpid()))
    os.rename(file + ".part", file)
    while True:
        time.sleep(60)


def load(do: dict[str, Any]) -> None:
    steps = int(do.get("load_seconds", 0) / 0.02)
    for step in range(steps):
        say(Progress("weights", step, steps, "tensors"))
        time.sleep(0.02)
    if do.get("hang_load"):
        threading.Event().wait()
    if do.get("crash_at_load"):
        os.write(2, b"Traceback ...\nCUDA out of memory\n")
        os._exit(3)
    if "fail_load" in do:
        os.write(2, b"it says why\n")
        say(Failed(do["fail_load"], "the weights do not fit", "Take others."))
        os._exit(1)


def say(event: Any) -> None:
    os.write(1, encode_event(event))


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 512
    adapters: list[str]
    adapter_loads: int


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def address_string(self) -> str:
        return "gateway"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(
            200,
            {
                "adapters": self.server.adapters,
                "adapter_loads": self.server.adapter_loads,
                "variables": dict(os.environ),
            },
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == paths.LOAD:
            self.load_adapter(body)
        elif self.path == paths.UNLOAD:
            self.server.adapters.remove(body["name"])
            self.answer(200, {})
        elif "chunks" in body:
            self.stream(body)
        else:
            self.answer(200, body)

    def load_adapter(self, body: dict[str, Any]) -> None:
        self.server.adapter_loads += 1
        time.sleep(0.05)
        if (body["adapter"] or body["chat_template"]).endswith("bad"):
            self.answer(400, {"error": {"message": "it does not fit", "code": "adapter_mismatch", "hint": "Train."}})
            return
        self.server.adapters.append(body["name"])
        self.answer(200, {})

    def stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(body["chunks"]):
            if number == body.get("die_after"):
                os.kill(os.getpid(), signal.SIGKILL)
            data = b"%d\n" % number
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            time.sleep(body.get("gap", 0))
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    main()
