"""The rival: transformers' own generation behind the smallest HTTP server there can be. Run in a model environment.

`library_server.py loop|batching MODEL [ADAPTER...]` prints its address on stdout once the weights are in. `loop` is
generate(), one request after the other; `batching` is the library's own continuous batching (pages of 64 tokens).
POST /v1/completions {model, prompt, max_tokens} is answered as SSE, greedy, to max_tokens; `model` may be the folder
name of an adapter (un-merged, loop only). It ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol
from uuid import uuid4

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig
from transformers.generation.streamers import BaseStreamer

Emit = Callable[[int], None]


class Backend(Protocol):
    def generate(self, ids: list[int], length: int, adapter: str, emit: Emit) -> None: ...


class Loop:
    """generate() with its own cache, one request at a time."""

    def __init__(self, model: Any, adapters: list[str]) -> None:
        self._lock = threading.Lock()
        self._names = [Path(folder).name for folder in adapters]
        self._model = model
        for folder in adapters:
            self._model.load_adapter(folder, adapter_name=Path(folder).name.replace(".", "-"))

    def generate(self, ids: list[int], length: int, adapter: str, emit: Emit) -> None:
        with self._lock, torch.inference_mode():
            if adapter in self._names:
                self._model.enable_adapters()
                self._model.set_adapter(adapter)
            elif self._names:
                self._model.disable_adapters()
            inputs = torch.tensor([ids])
            self._model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                min_new_tokens=length,
                max_new_tokens=length,
                do_sample=False,
                streamer=Steps(emit),
            )


class Steps(BaseStreamer):
    """Hands on each token of generate() but the prompt."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._begun = False

    def put(self, value: torch.Tensor) -> None:
        if self._begun:
            self._emit(int(value.reshape(-1)[-1]))
        self._begun = True

    def end(self) -> None:
        """Nothing is held back."""


class Batching:
    """The library's continuous batching."""

    def __init__(self, model: Any) -> None:
        settings = GenerationConfig(do_sample=False, max_new_tokens=64, eos_token_id=-1, pad_token_id=0)
        config = ContinuousBatchingConfig(page_size=64, num_blocks=512, max_batch_tokens=1024)
        self._manager = model.init_continuous_batching(generation_config=settings, continuous_batching_config=config)
        self._manager.start()

        self._listeners: dict[str, SimpleQueue[Any]] = {}
        threading.Thread(target=self._deliver, daemon=True).start()

    def _deliver(self) -> None:
        """The only reader of the manager's results: many readers of its one queue would only hinder one another."""
        while True:
            output = self._manager.get_result(timeout=1.0)
            if output is not None and output.request_id in self._listeners:
                self._listeners[output.request_id].put(output)

    def generate(self, ids: list[int], length: int, adapter: str, emit: Emit) -> None:
        name, results, seen = uuid4().hex, SimpleQueue(), 0
        self._listeners[name] = results
        self._manager.add_request(ids, request_id=name, max_new_tokens=length, streaming=True)
        while seen < length:
            output = results.get(timeout=300)
            if output.error:
                raise RuntimeError(output.error)
            for token in output.generated_tokens[seen:length]:
                emit(token)
            seen = len(output.generated_tokens)
        del self._listeners[name]


def handler(backend: Backend, tokenizer: Any) -> type[BaseHTTPRequestHandler]:
    class Completions(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            pieces: SimpleQueue[int | None] = SimpleQueue()
            ids = tokenizer(body["prompt"])["input_ids"]

            def work() -> None:
                try:
                    backend.generate(ids, body["max_tokens"], body.get("model", ""), pieces.put)
                finally:
                    pieces.put(None)

            threading.Thread(target=work, daemon=True).start()
            while (token := pieces.get()) is not None:
                self._send({"choices": [{"index": 0, "text": tokenizer.decode([token])}]})
            self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, piece: dict[str, Any]) -> None:
            self.wfile.write(b"data: " + json.dumps(piece).encode() + b"\n\n")

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Completions


def leave_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    threading.Thread(target=leave_with_stdin, daemon=True).start()
    kind, folder, adapters = sys.argv[1], sys.argv[2], sys.argv[3:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    backend = Loop(model, adapters) if kind == "loop" else Batching(model)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(backend, tokenizer))
    server.request_queue_size = 128
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
