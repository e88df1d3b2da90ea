"""A server of the standard library alone that speaks a little of OpenAI's dialect, with faults on demand. A script.

    --port N | --socket PATH   where it listens
    --log FILE                 one line for each event: `start PID MONOTONIC`, `asked`, `cancelled`, `done`

while it starts:   --load S            seconds until /health says 200; a line of log every 0.1 s
                   --load-until FILE   the same until that file is there
                   --hang              /health says 503 for ever, and nothing is logged
                   --gil               C code holds the interpreter for ever: not even a thread of its own runs
                   --crash CODE        ends at once, with a last line
                   --ignore-term       TERM does nothing
                   --daemon            a grandchild detaches itself (setsid, double fork) and ignores TERM
                   --hold BYTES        so much memory, touched
                   --gpu CARD:BYTES    so much of an accelerator's memory, as a_driver.c tells of it
                   --flood BYTES       so many bytes of log, as fast as they are taken
while it serves:   --token-seconds S   between two chunks
                   --die-after N       kills itself after N chunks
                   --grow BYTES        more memory with each request
                   --wedge             answers /health, and no request
                   --http10            bodies end with the connection, as HTTP/1.0 has it
request:           {"n": chunks, "stream": bool, "until": FILE}; echoes {"tag"}; ends when that file is there,
                   or `cancelled` when its client leaves
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

READY = threading.Event()
HOARD: list[bytearray] = []


def main() -> None:
    given = parse()
    note(given, f"start {os.getpid()} {time.monotonic()}")
    if given.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if given.daemon:
        detach()
    if given.crash is not None:
        print("Traceback ...\nRuntimeError: out of luck", file=sys.stderr, flush=True)
        os._exit(given.crash)
    HOARD.append(bytearray(b"x" * given.hold))
    hold_accelerator(given.gpu)
    left = given.flood
    while left > 0:
        left -= os.write(1, b"%015d\n" % left * 4096)
    if given.gil:
        ctypes.PyDLL(None).pause()
    server = (UnixServer if given.socket else TcpServer)(given.socket or ("127.0.0.1", given.port), Requests)
    server.given = given
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for step in range(int(given.load / 0.1)):
        print(f"loading, step {step}", flush=True)
        time.sleep(0.1)
    wait_for(given.load_until)
    if not given.hang:
        READY.set()
    threading.Event().wait()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name, kind, default in (
        ("port", int, 0),
        ("socket", str, ""),
        ("log", str, ""),
        ("gpu", str, ""),
        ("load", float, 0.0),
        ("load-until", str, ""),
        ("crash", int, None),
        ("flood", int, 0),
        ("token-seconds", float, 0.0),
        ("die-after", int, None),
        ("grow", int, 0),
        ("hold", int, 0),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    for name in ("hang", "gil", "ignore-term", "daemon", "wedge", "http10"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


def wait_for(file: str) -> None:
    while file and not os.path.exists(file):
        time.sleep(0.01)


def note(given: argparse.Namespace, text: str) -> None:
    if given.log:
        file = os.open(given.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, text.encode() + b"\n")
        os.close(file)


def hold_accelerator(wish: str) -> None:
    """Until this process ends: the lock goes with it."""
    card, _, size = wish.partition(":")
    if card:
        file = os.open(f"{os.environ['A_DRIVER']}/{card}-{os.urandom(8).hex()}.held", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(file, size.encode())


def detach() -> None:
    """A process that no process group, session or parent leads to."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    while True:
        time.sleep(60)


class Threads(socketserver.ThreadingMixIn):
    daemon_threads = True
    request_queue_size = 1024
    given: argparse.Namespace


class TcpServer(Threads, socketserver.TCPServer):
    allow_reuse_address = True


class UnixServer(Threads, socketserver.UnixStreamServer):
    def get_request(self) -> tuple[socket.socket, Any]:
        return super().get_request()[0], ("gateway", 0)


class Requests(BaseHTTPRequestHandler):
    server: Any

    def setup(self) -> None:
        self.protocol_version = "HTTP/1.0" if self.server.given.http10 else "HTTP/1.1"
        super().setup()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(200 if READY.is_set() else 503, {"status": "ok" if READY.is_set() else "loading"})

    def do_POST(self) -> None:
        given = self.server.given
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if given.wedge:
            threading.Event().wait()
        note(given, "asked")
        HOARD.append(bytearray(b"x" * given.grow))
        chunks = int(body.get("n", 3))
        if body.get("stream"):
            self.stream(chunks, body)
            return
        for number in range(chunks):
            self.pause(number)
        try:
            self.hold(body.get("until", ""))
        except ConnectionResetError:
            note(given, "cancelled")
            self.close_connection = True
            return
        message = {"role": "assistant", "content": "word " * chunks, "tag": body.get("tag")}
        self.answer(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def stream(self, chunks: int, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if not self.server.given.http10:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(chunks):
                self.pause(number)
                self.event({"choices": [{"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}]})
            self.hold(body.get("until", ""))
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            note(self.server.given, "done")  # before its reader can know
            self.chunk(b"data: [DONE]\n\n")
            if not self.server.given.http10:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            note(self.server.given, "cancelled")
            self.close_connection = True

    def pause(self, number: int) -> None:
        given = self.server.given
        if number == given.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(given.token_seconds)

    def hold(self, file: str) -> None:
        while file and not os.path.exists(file):
            if select.select([self.connection], [], [], 0.01)[0]:
                raise ConnectionResetError

    def event(self, data: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(data if self.server.given.http10 else b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    main()
