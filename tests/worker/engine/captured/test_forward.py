"""What the way of CUDA devices does beside being right, which is for tests/worker/engine/test_equal_to_generate.py."""

from __future__ import annotations

import pytest
import torch
from tests.worker.engine.architectures import ARCHITECTURES, RECURRENT, architecture, make
from tests.worker.engine.driving import CPU, batch, captured_way, finish, generated, heard, recorded
from torch.utils._python_dispatch import TorchDispatchMode

from bainmarie_worker.engine import probe
from bainmarie_worker.engine.captured.forward import captured
from bainmarie_worker.engine.captured.inputs import Inputs, Layout
from bainmarie_worker.engine.memory import Part
from bainmarie_worker.engine.packed import packed
from bainmarie_worker.engine.ways import best_way
from bainmarie_worker.errors import LoadError

PACKED = [known for known in ARCHITECTURES if known.path != "apart" and known.name not in RECURRENT]
WAITS = ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select", "equal", "is_nonzero", "unique")


class Waiting(TorchDispatchMode):
    """Notes what cannot be captured: operations whose result the program looks at, and data from main memory."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        by_mask = name.startswith("index") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for part in torch.utils._pytree.tree_leaves(args)
        )
        if name.startswith(WAITS) or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def passes(forward, *counts):
    """One pass of so many tokens for each sequence."""
    memories = [forward.memory() for _ in counts]
    parts = [Part(memory, [5 + count] * count, 1) for memory, count in zip(memories, counts, strict=True)]
    with torch.inference_mode():
        return forward.run(parts)


@pytest.mark.parametrize("known", PACKED, ids=lambda known: known.title)
def test_nothing_in_a_pass_waits_for_the_device(known):
    forward = captured_way(make(known))
    inputs = Inputs(Layout(4, 4, 2), CPU)
    memory = forward.memory()
    memory.reserve(4)
    inputs.fill([Part(memory, [3, 4, 5], 1)])
    with torch.inference_mode(), Waiting() as waiting:
        forward._computed(inputs)
    assert waiting.found == []


def test_what_would_wait_is_noticed():
    with Waiting() as waiting:
        some = torch.ones(3).nonzero()
        torch.ones(3)[some[:, 0] > 1].sum().item()
        torch.tensor([1, 2])
    assert len({name.partition(".")[0] for name in waiting.found}) >= 4


def test_a_pass_that_comes_up_often_is_captured_and_repeated():
    forward = captured_way(make(architecture("llama")))
    made = []
    forward._capture = lambda compute: made.append(recorded(compute)) or made[-1]
    for _ in range(forward.worth - 1):
        passes(forward, 1)
    assert not made
    first = passes(forward, 1)[0]
    assert len(made) == 1
    again = passes(forward, 1)[0]
    assert len(made) == 1
    assert torch.equal(first, again)
    with torch.inference_mode():
        other = forward.run([Part(forward.memory(), [9], 1)])[0]
    assert len(made) == 1
    assert not torch.equal(first, other)


def test_rows_without_adapters_fill_up_to_few_shapes():
    forward = captured_way(make(architecture("llama")))
    for counts in ((1, 1, 1), (2, 1), (1, 1, 1, 1), (4,), (3,)):
        passes(forward, *counts)
    assert {(shape[1].rows, shape[1].pages) for shape in forward._seen} == {(4, 1)}
    for counts in ((5,), (50, 4)):
        passes(forward, *counts)
    assert {shape[1].rows for shape in forward._seen} == {4, 8, 64}


def test_captures_of_before_the_pool_moved_are_not_repeated():
    model = make(architecture("llama"))
    forward = captured_way(model)
    forward.worth = 1
    prompt = [7, 8, 9, 10] * 3
    streams = [heard(prompt, 200), heard([3, *prompt], 200), heard([4, *prompt], 200)]
    finish(batch(forward, speculate=False), *streams)
    assert forward._pool.moves > 0
    reference = make(architecture("llama"))
    assert [stream.tokens for stream in streams] == [
        generated(reference, stream.sequence.prompt, 200) for stream in streams
    ]


def test_what_cannot_be_captured_is_computed_and_the_log_says_so(capsys):
    forward = captured_way(make(architecture("llama")))

    def refuse(compute):
        raise RuntimeError("called a synchronizing operation")

    forward._capture = refuse
    prompt = [5, 6, 7]
    stream = heard(prompt, 20)
    finish(batch(forward, speculate=False), stream)
    assert stream.tokens == generated(make(architecture("llama")), prompt, 20)
    said = capsys.readouterr().err
    assert "a pass of 1 rows is not captured: RuntimeError: called a synchronizing operation" in said


def test_a_model_that_cannot_be_captured_is_told_why():
    model = make(architecture("llama"))
    reference = probe.reference(model, CPU)
    slower = packed(model, CPU, reference)

    def refuse(compute):
        raise RuntimeError("called a synchronizing operation")

    found = captured(model, slower, CPU, reference, refuse)
    assert found == "RuntimeError: called a synchronizing operation"


def test_a_capture_that_repeats_something_else_is_not_taken():
    model = make(architecture("llama"))
    reference = probe.reference(model, CPU)
    slower = packed(model, CPU, reference)

    def stale(compute):
        result = compute()
        return lambda: result * 0.5

    assert "it computes something else" in captured(model, slower, CPU, reference, stale)


def test_it_is_for_cuda_devices():
    with pytest.raises(LoadError, match="captured passes are for CUDA devices"):
        best_way(make(architecture("llama")), CPU, "captured")
