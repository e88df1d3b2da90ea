"""A model under the engine's batch, without thread and event loop: a test says when a step is made, and sees all."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from bainmarie_worker.engine import probe
from bainmarie_worker.engine.batch import Batch
from bainmarie_worker.engine.captured.forward import Captured, captured
from bainmarie_worker.engine.growth import growth
from bainmarie_worker.engine.memory import Computed, Forward, Memory, Part, independent
from bainmarie_worker.engine.packed import packed
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Adapter, Drawn, Finish, Sampling, Sequence
from bainmarie_worker.engine.ways import best_way
from bainmarie_worker.errors import RequestError

CPU = torch.device("cpu")
PLENTY = 1 << 30
torch.set_num_threads(1)


class Heard:
    """What the engine says of one sequence. For the engine it is a `TokenStream`."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.cancelled = threading.Event()
        self.items: list[Any] = []

    def put(self, item: Any) -> None:
        assert not self.ended, f"{item} came after the end"
        self.items.append(item)

    @property
    def ended(self) -> bool:
        return bool(self.items) and not isinstance(self.items[-1], (int, Drawn))

    @property
    def tokens(self) -> list[int]:
        return [item.token if isinstance(item, Drawn) else item for item in self.items if self._is_token(item)]

    @property
    def drawn(self) -> list[Drawn]:
        return [item for item in self.items if isinstance(item, Drawn)]

    @property
    def finish(self) -> Finish:
        assert isinstance(self.items[-1], Finish), self.items[-1]
        return self.items[-1]

    @property
    def error(self) -> RequestError:
        assert isinstance(self.items[-1], RequestError), self.items[-1]
        return self.items[-1]

    @staticmethod
    def _is_token(item: Any) -> bool:
        return isinstance(item, (int, Drawn))


class Watched:
    """Implements `Forward` and `Independent` around another one and counts what happens."""

    def __init__(self, forward: Forward) -> None:
        self.path, self.packs, self.why = forward.path, forward.packs, forward.why
        self.crops, self.guesses = forward.crops, forward.guesses
        self.growth = growth(forward)
        self.passes: list[list[tuple[int, int]]] = []
        """(tokens, logits wanted) of each part. The parts themselves would keep their memories alive."""
        self.memories = 0
        """Begun with nothing in them: one for a sequence without a prefix, one for each time that it had to go."""
        self._forward = forward
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()

    def memory(self) -> Memory:
        self.memories += 1
        made = self._forward.memory()
        self._made.add(made)
        return made

    def run(self, parts: list[Part]) -> list[Computed]:
        self.passes.append([(len(part.tokens), part.wanted) for part in parts])
        results = self._forward.run(parts)
        self._made.update(part.memory for part in parts)
        return results

    def independent(self, adapter: Adapter) -> bool:
        return independent(self._forward, adapter)

    def free(self) -> None:
        self._forward.free()

    @property
    def guessed(self) -> int:
        return sum(max(wanted - 1, 0) for parts in self.passes for _, wanted in parts)

    @property
    def computed(self) -> int:
        """Tokens, guesses included."""
        return sum(tokens for parts in self.passes for tokens, _ in parts)

    @property
    def draws(self) -> int:
        """Times that a sequence got logits: as many as its tokens where no guess was right."""
        return sum(1 for parts in self.passes for _, wanted in parts if wanted)

    @property
    def held(self) -> int:
        """Bytes of all memories that are still there."""
        return sum(memory.bytes for memory in self._made)


def way(model: Any) -> Forward:
    """The best way to compute it, as the runner chooses it."""
    found = best_way(model, CPU)
    assert not isinstance(found, str), found
    return found


def recorded(compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """What a capture is on a CUDA device: the operations as they were, on the same tensors, without the code that
    asked for them."""
    return make_fx(compute)()  # type: ignore[no-any-return]


def captured_way(model: Any, room: int = PLENTY // 4, page: int = 4) -> Captured:
    """The way of CUDA devices on this processor, where a capture is a record of operations."""
    reference = probe.reference(model, CPU)
    slower = packed(model, CPU, reference)
    assert not isinstance(slower, str), slower
    found = captured(model, slower, CPU, reference, recorded, page)
    assert not isinstance(found, str), found
    found.make_room(room)
    return found


def told(error: Exception, stream: Any) -> RequestError:
    return RequestError(500, f"{type(error).__name__}: {error}", code="engine_error")


def batch(
    forward: Forward,
    limit: int = PLENTY,
    speculate: bool = True,
    ends: SequenceOf[int] = (),
    describe: Callable[[Exception, Any], RequestError] = told,
) -> Batch:
    def sampler(stream: Any) -> Sampler:
        sequence = stream.sequence
        return Sampler(sequence.sampling, sequence.prompt, CPU, sequence.logprobs)

    return Batch(forward, frozenset(ends), sampler, describe, limit, speculate)


def heard(prompt: SequenceOf[int], tokens: int = 12, sampling: Sampling | None = None, **fields: Any) -> Heard:
    return Heard(Sequence(tuple(prompt), tokens, sampling or Sampling(), **fields))


def submit(batch: Batch, *streams: Heard) -> None:
    for stream in streams:
        batch.submit(stream)  # type: ignore[arg-type]


def steps(batch: Batch, count: int) -> None:
    with torch.inference_mode():
        for _ in range(count):
            batch.step()


def finish(batch: Batch, *streams: Heard) -> None:
    """Submits these, and steps until nothing is left to do."""
    submit(batch, *streams)
    with torch.inference_mode():
        while batch.busy:
            batch.step()
    assert all(stream.ended for stream in streams)


def generated(model: Any, prompt: SequenceOf[int], tokens: int, **settings: Any) -> list[int]:
    """What the library's own loop makes of it, greedy; `settings` are its own."""
    return generated_together(model, [prompt], tokens, **settings)[0]


def generated_together(
    model: Any, prompts: SequenceOf[SequenceOf[int]], tokens: int, **settings: Any
) -> list[list[int]]:
    """The same for many prompts of one length."""
    ids = torch.tensor([list(prompt) for prompt in prompts])
    with torch.inference_mode():
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=None,
            pad_token_id=0,
            **settings,
        )
    assert whole.shape[1] == ids.shape[1] + tokens
    answers: list[list[int]] = whole[:, ids.shape[1] :].tolist()
    return answers
