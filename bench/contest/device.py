"""One process on one device: our engine, the same without captures, transformers' own loop and continuous batching.

The model has random weights, so no text is right or wrong: greedy, without an end, the same prompts for all. Run it in
a Python that has torch and transformers (and peft for the rows with adapters); needs no installed bainmarie.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "packages/worker/src"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "packages/protocol/src"))

from bainmarie_worker.adapters import Adapters
from bainmarie_worker.engine.adapted import Adapted
from bainmarie_worker.engine.batch import Batch
from bainmarie_worker.engine.captured.forward import Captured
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Finish, Sampling
from bainmarie_worker.engine.sequence import Sequence as Order
from bainmarie_worker.engine.ways import best_way
from bainmarie_worker.errors import RequestError

SIZES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False},
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1024, "tie_word_embeddings": False},
}  # fmt: skip
"""Qwen3 by their sizes; `8b` has 8.2 billion parameters."""
Row = tuple[str, Callable[[], float]]


class Stream:
    """What the engine says of one sequence, with the times at which it did. For the engine it is a `TokenStream`."""

    def __init__(self, order: Order) -> None:
        self.sequence = order
        self.cancelled = threading.Event()
        self.times: list[float] = []
        self.failed: Exception | None = None

    def put(self, item: Any) -> None:
        if isinstance(item, Exception):
            self.failed = item
        elif not isinstance(item, Finish):
            self.times.append(perf_counter())


class Ours:
    """The engine's batch without thread and server."""

    def __init__(self, model: Any, device: torch.device, wish: str = "auto", room: int = 16 << 30) -> None:
        forward = best_way(model, device, wish)
        if isinstance(forward, str):
            raise SystemExit(forward)
        self.path = f"{forward.path}{' (' + forward.why + ')' if forward.why else ''}"
        if isinstance(forward, Captured):
            room = forward.make_room(room)
            self.path += ", paged attention" if forward.paged else ", gathered pages"
        self._device = device
        self.adapters = Adapters(model, mix=forward.packs)
        self._forward, self._room = Adapted(forward, self.adapters), room
        self.fresh()

    def fresh(self, *, speculate: bool = False) -> None:
        """Nothing is kept of what came before."""
        self._batch = Batch(self._forward, frozenset(), self._sampler, self._told, self._room, speculate)

    def run(self, *orders: Order, late: Sequence[Order] = (), after: int = 0) -> list[Stream]:
        """`late` ones come when the first of `orders` has so many tokens."""
        began = [Stream(order) for order in orders]
        for stream in began:
            self._batch.submit(stream)
        waiting = list(late)
        with torch.inference_mode():
            while self._batch.busy:
                if waiting and len(began[0].times) >= after:
                    began += [Stream(order) for order in waiting]
                    for stream in began[-len(waiting) :]:
                        stream.times.append(perf_counter())
                        self._batch.submit(stream)
                    waiting = []
                self._batch.step()
        for stream in began:
            if stream.failed:
                raise stream.failed
        return began

    def _sampler(self, stream: Any) -> Sampler:
        return Sampler(stream.sequence.sampling, stream.sequence.prompt, self._device, None)

    def _told(self, error: Exception, stream: Any) -> RequestError:
        raise error


def text(count: int, seed: int = 0) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(3, 1000) for _ in range(count))


def order(prompt: Sequence[int], tokens: int, adapter: str | None = None) -> Order:
    return Order(tuple(prompt), tokens, Sampling(), adapter, ignore_eos=True)


def decoding(ours: Ours, context: int, tokens: int, adapter: str | None = None) -> float:
    """Tokens a second of one sequence, after its first ones."""
    ours.fresh()
    times = ours.run(order(text(context), tokens, adapter))[0].times
    return (len(times) - 9) / (times[-1] - times[8])


def together(ours: Ours, clients: int, prompt: int, tokens: int, adapters: Sequence[str] = ()) -> float:
    """Tokens a second of all, prompts included."""
    ours.fresh()
    chosen = [adapters[number % len(adapters)] if adapters else None for number in range(clients)]
    orders = [order(text(prompt, number), tokens, adapter) for number, adapter in enumerate(chosen)]
    began = perf_counter()
    ours.run(*orders)
    return clients * tokens / (perf_counter() - began)


def turns(ours: Ours, count: int) -> float:
    """Seconds to the first token of the last of so many turns: 1,500 tokens, each turn 60 answered and 150 more."""
    ours.fresh(speculate=True)
    told = list(text(1500))
    for turn in range(count):
        began = perf_counter()
        stream = ours.run(order(told, 60))[0]
        first = stream.times[0] - began
        told += [*text(60, turn + 50), *text(150, turn + 90)]
    return first


def first_token(ours: Ours, *, beside: bool) -> float:
    """Seconds of a prompt of 256, alone or while 8 decode and a prompt of 4,000 is read."""
    ours.fresh()
    asked = order(text(256, 77), 2)
    if not beside:
        began = perf_counter()
        return ours.run(asked)[0].times[0] - began
    others = [order(text(128, number), 200) for number in range(8)]
    late = ours.run(*others, late=[order(text(4000, 99), 2), asked], after=20)[-1]
    return late.times[1] - late.times[0]


def generated(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> None:
    """transformers' own loop over prompts of one length."""
    ids = torch.tensor([list(prompt) for prompt in prompts], device=model.device)
    model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens,
        pad_token_id=0,
    )  # fmt: skip


def own_decoding(model: Any, context: int, tokens: int) -> float:
    generated(model, [text(context)], 2)
    first = timed(lambda: generated(model, [text(context)], 1))
    return (tokens - 1) / (timed(lambda: generated(model, [text(context)], tokens)) - first)


def own_batching(model: Any, clients: int, prompt: int, tokens: int) -> float:
    from transformers import GenerationConfig

    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    prompts = [list(text(prompt, number)) for number in range(clients)]

    def work() -> None:
        found = model.generate_batch(inputs=prompts, generation_config=settings)
        made = [len(one.generated_tokens) for one in found.values()]
        if made != [tokens] * clients:
            raise RuntimeError(f"continuous batching gave {made}")

    return clients * tokens / timed(work)


def timed(work: Callable[[], object]) -> float:
    synchronize()
    began = perf_counter()
    work()
    synchronize()
    return perf_counter() - began


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bandwidth(device: torch.device) -> float:
    """Bytes a second that the device reads, the best of ten passes over 4 GiB (64 MiB on a processor)."""
    numbers = torch.ones((4 << 30 if device.type == "cuda" else 64 << 20) // 4, device=device)
    numbers.sum()
    return numbers.nbytes / min(timed(numbers.sum) for _ in range(10))


def made_model(size: str, device: torch.device) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3", max_position_embeddings=8192, **SIZES[size])
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def made_adapters(size: str, folder: Path) -> list[str]:
    """Four of rank 16 on all linear layers, with weights that change something."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = made_model(size, torch.device("cuda:0" if torch.cuda.is_available() else "cpu"))
        paths = []
        for number in range(4):
            torch.manual_seed(number)
            settings = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
            adapted = get_peft_model(model, settings)
            paths.append(str(folder / f"adapter{number}"))
            adapted.save_pretrained(paths[-1])
            model = adapted.unload()
    return paths


def our_rows(ours: Ours, short: bool) -> Iterator[Row]:
    tokens = 40 if short else 200
    yield "decode at context 128, tok/s", lambda: decoding(ours, 128, tokens)
    yield "decode at context 1024, tok/s", lambda: decoding(ours, 1024, tokens)
    for clients in (1, 8, 16):
        yield (
            f"{clients} clients, prompt 256, output 64, tok/s",
            lambda clients=clients: together(ours, clients, 256, 64),
        )
    yield "turn 6, first token, ms", lambda: turns(ours, 6) * 1e3
    yield "first token alone, ms", lambda: first_token(ours, beside=False) * 1e3
    yield "first token beside 8 and a prompt of 4,000, ms", lambda: first_token(ours, beside=True) * 1e3


def adapter_rows(ours: Ours, paths: Sequence[str], short: bool) -> Iterator[Row]:
    tokens = 40 if short else 200
    yield "one adapter: decode at context 128, tok/s", lambda: decoding(ours, 128, tokens, paths[0])
    yield "8 clients, prompt 256, output 64, tok/s", lambda: together(ours, 8, 256, 64)
    yield "4 adapters among 8 clients, tok/s", lambda: together(ours, 8, 256, 64, paths)


def own_rows(model: Any, short: bool) -> Iterator[Row]:
    tokens = 40 if short else 120
    yield "decode at context 128, tok/s", lambda: own_decoding(model, 128, tokens)
    yield "decode at context 1024, tok/s", lambda: own_decoding(model, 1024, tokens)
    prompt = [text(256)]
    yield "one after the other, prompt 256, output 64, tok/s", lambda: 64 / timed(lambda: generated(model, prompt, 64))
    yield "continuous batching, 16, prompt 256, output 64, tok/s", lambda: own_batching(model, 16, 256, 64)


def table(title: str, rows: Iterator[Row], times: int, ceiling: float) -> None:
    print(f"\n### {title}\n\n| work | median of {times} | |\n| --- | --- | --- |", flush=True)
    for name, measure in rows:
        try:
            measure()
            figure = median(measure() for _ in range(times))
        except Exception as error:  # noqa: BLE001 - a rival's failure is a result too
            print(
                f"| {name} | {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''} | |",
                flush=True,
            )
            continue
        part = f"{figure / ceiling:.0%} of the ceiling" if "decode" in name else ""
        print(f"| {name} | {figure:.1f} | {part} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--size", default="8b", choices=SIZES)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="fewer tokens: does all of it work?")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"nothing measured: torch {torch.__version__} sees no CUDA device here")
        return 0
    import transformers

    rate = bandwidth(device)
    model = made_model(options.size, device)
    read = sum(weights.nbytes for weights in model.parameters()) - model.get_input_embeddings().weight.nbytes
    ceiling = rate / read
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    billions = model.num_parameters() / 1e9
    print(
        f"## The engine on {name}\n\n{billions:.2f} billion parameters in bf16, random; memory read {rate / 1e9:.0f} "
        f"GB/s, so {ceiling:.1f} tok/s at the most; torch {torch.__version__}, transformers "
        f"{transformers.__version__}; medians of {options.times}."
    )
    table("transformers", own_rows(model, options.short), options.times, ceiling)
    ours = Ours(model, device)
    table(f"bainmarie, {ours.path}", our_rows(ours, options.short), options.times, ceiling)
    if "packed" not in ours.path:
        slower = Ours(made_model(options.size, device), device, "packed")
        table("bainmarie without captures", our_rows(slower, True), 1, ceiling)
        del slower
        gc.collect()
    with TemporaryDirectory() as folder:
        try:
            paths = made_adapters(options.size, Path(folder))
        except ImportError as error:
            print(f"\nAdapters were not measured: {error}")
            return 0
        for path in paths:
            ours.adapters.load(path, lambda step: None)
        table("bainmarie with adapters of rank 16", adapter_rows(ours, paths, options.short), options.times, ceiling)
    return 0


if __name__ == "__main__":
    sys.exit(main())
