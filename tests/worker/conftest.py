"""Tiny random models, and real worker processes to hold them. They run in these tests' own interpreter."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bainmarie_protocol import Event, Failed, Ready, ServedModel, WorkerConfig, decode_event

_SOURCES = [str(Path(__file__).resolve().parents[2] / "packages" / name / "src") for name in ("worker", "protocol")]
_BOOTSTRAP = f"import sys; sys.path[:0] = {_SOURCES!r}; from bainmarie_worker.__main__ import main; main()"

TEMPLATE = """\
{%- if tools %}<|im_start|>system
{{ tools | tojson }} <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("worker", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class Reply:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def chunks(self) -> list[Any]:
        """The events of a stream; the last one must be [DONE]."""
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


class Worker:
    """A worker process and its socket."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.events: list[Event] = []
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # of models so small more threads only wait for each other
        )
        assert self.process.stdin is not None
        self.process.stdin.write(config.to_json().encode() + b"\n")
        self.process.stdin.flush()

    def next_event(self) -> Event | None:
        """The next event line; None at the end of stdout."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            return None
        self.events.append(decode_event(line))
        return self.events[-1]

    def until(self, *kinds: type) -> Any:
        """Reads events up to the first of these kinds."""
        while (event := self.next_event()) is not None:
            if isinstance(event, kinds):
                return event
        raise AssertionError(f"the worker ended without {kinds}: {self.events}")

    def connect(self) -> _UnixConnection:
        return _UnixConnection(self.config.socket)

    def get(self, path: str) -> Reply:
        return self._exchange("GET", path, None)

    def post(self, path: str, body: Any) -> Reply:
        return self._exchange("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def chat(self, content: str | list[Any], **fields: Any) -> Reply:
        messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
        body = {"model": self.config.name, "messages": messages, **fields}
        return self.post("/v1/chat/completions", body)

    def text(self, content: str | list[Any], **fields: Any) -> str:
        reply = self.chat(content, **fields)
        assert reply.status == 200, reply.body
        text: str = reply.json["choices"][0]["message"]["content"]
        return text

    def _exchange(self, method: str, path: str, body: bytes | None) -> Reply:
        connection = self.connect()
        with contextlib.closing(connection):
            connection.request(method, path, body)
            response = connection.getresponse()
            return Reply(response.status, response.read())

    def end(self) -> int:
        """Closes the lifeline; the exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        status = self.process.wait(timeout=60)
        self.process.stdout.close()
        return status


StartWorker = Callable[..., Worker]


@pytest.fixture(scope="session")
def start_session_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    started: list[Worker] = []

    def start(model: Any, *served: ServedModel, **fields: Any) -> Worker:
        path = tmp_path_factory.mktemp("s") / "w.sock"
        models = served or (ServedModel("m"),)
        engine = fields.pop("engine", "transformers")
        config = WorkerConfig(models[0].name, engine, str(model), models, **{"socket": str(path), **fields})
        started.append(Worker(config))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.end()


@pytest.fixture
def start_worker(start_session_worker: StartWorker) -> StartWorker:
    return start_session_worker


@pytest.fixture
def start_fake(start_worker: StartWorker) -> StartWorker:
    """A fake worker with these options, ready unless it fails."""

    def start(**options: Any) -> Worker:
        worker = start_worker("nowhere", engine="fake", options=options)
        worker.until(Ready, Failed)
        return worker

    return start


@pytest.fixture
def start_line() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """A worker process whose whole stdin is this text."""
    started: list[subprocess.Popen[bytes]] = []

    def start(line: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-I", "-c", _BOOTSTRAP], stdin=subprocess.PIPE)
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(line.encode() + b"\n" if line else b"")
        process.stdin.close()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Libraries may warn while they are imported; that is not what these tests are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A token for each byte, and the marks of the chat template."""
    with _quiet():
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: number for number, letter in enumerate(letters)}
        raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        fast = PreTrainedTokenizerFast(
            tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|pad|>", bos_token="<|im_start|>"
        )
        fast.add_tokens(["<tool_call>", "</tool_call>"])
        fast.chat_template = TEMPLATE
    return fast


def _llama(tokenizer: Any, **settings: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    model = LlamaForCausalLM(
        LlamaConfig(
            **{
                "vocab_size": len(tokenizer),
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 512,
                "initializer_range": 0.2,
                "tie_word_embeddings": False,
                "eos_token_id": tokenizer.eos_token_id,
                "bos_token_id": tokenizer.bos_token_id,
                **settings,
            }
        )
    ).eval()
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0  # so that it is never the likeliest
    return model


@pytest.fixture(scope="session")
def make_llama(tokenizer: Any) -> Callable[..., Any]:
    def make(**settings: Any) -> Any:
        with _quiet():
            return _llama(tokenizer, **settings)

    return make


@dataclass(frozen=True)
class Family:
    """Directories of a base model, an adapter on it, and both merged."""

    base: Path
    adapter: Path
    merged: Path


@pytest.fixture(scope="session")
def family(tokenizer: Any, make_llama: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Family:
    root = tmp_path_factory.mktemp("models")
    found = Family(root / "base", root / "adapter", root / "merged")
    with _quiet():
        import torch
        from peft import LoraConfig, get_peft_model

        model = make_llama()
        model.save_pretrained(found.base)
        torch.manual_seed(11)
        settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
        adapted = get_peft_model(model, settings)
        adapted.save_pretrained(found.adapter)
        adapted.merge_and_unload().save_pretrained(found.merged)
    for directory in (found.base, found.merged):
        tokenizer.save_pretrained(directory)
    return found


@pytest.fixture(scope="session")
def worker(start_session_worker: StartWorker, family: Family) -> Worker:
    """One ready worker for all tests that leave it as it was: `m` and `alice` (an adapter), `plain`, `brief`."""
    started = start_session_worker(
        family.base,
        ServedModel("m"),
        ServedModel("alice", adapter=str(family.adapter)),
        ServedModel("plain", prompt="plain"),
        ServedModel("brief", system_prompt="You are brief."),
        device="cpu",
    )
    started.until(Ready)
    return started
