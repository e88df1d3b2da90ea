"""On a CUDA device: captures as they are, and torch's attention over pages."""

from __future__ import annotations

import pytest
import torch
from tests.worker.engine.architectures import ARCHITECTURES, RECURRENT, architecture, make
from tests.worker.engine.driving import finish, heard

from bainmarie_worker.engine.batch import Batch
from bainmarie_worker.engine.captured.forward import Captured
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.ways import best_way
from bainmarie_worker.errors import RequestError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

PACKED = [known for known in ARCHITECTURES if known.path != "apart" and known.name not in RECURRENT]
CUDA = torch.device("cuda:0")


def way(model):
    found = best_way(model, CUDA)
    assert isinstance(found, Captured), found if isinstance(found, str) else found.why
    found.make_room(1 << 28)
    return found


def batch(forward):
    def sampler(stream):
        return Sampler(stream.sequence.sampling, stream.sequence.prompt, CUDA, stream.sequence.logprobs)

    return Batch(forward, frozenset(), sampler, lambda error, stream: RequestError(500, str(error)), 1 << 28)


@pytest.mark.parametrize("known", PACKED, ids=lambda known: known.title)
def test_answers_are_those_of_generate(known):
    reference, forward = make(known).to(CUDA), way(make(known).to(CUDA))
    prompts = [[3 + (7 * place + count) % 120 for place in range(count)] for count in (1, 4, 30, 90, 17)]
    for again in range(2):
        streams = [heard(prompt, 24) for prompt in prompts]
        finish(batch(forward), *streams)
        for stream in streams:
            prompt = torch.tensor([stream.sequence.prompt], device=CUDA)
            whole = reference.generate(prompt, do_sample=False, max_new_tokens=24, eos_token_id=None, pad_token_id=0)
            assert stream.tokens == whole[0, prompt.shape[1] :].tolist(), again
    assert forward._graphs, "nothing was captured"


def test_half_precision_goes_by_the_kernel_for_pages():
    forward = way(make(architecture("llama")).to(CUDA, torch.bfloat16))
    assert forward.paged
    streams = [heard([5, 6, 7 + number] * 40, 300) for number in range(3)]
    finish(batch(forward), *streams)
    assert [len(stream.tokens) for stream in streams] == [300] * 3
