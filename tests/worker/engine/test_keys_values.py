from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from bainmarie_worker.engine.fused.memory import Kept, OneBlock
from bainmarie_worker.engine.keys_values import KeysValues

WORK = st.lists(st.tuples(st.sampled_from(["write", "crop", "copy"]), st.integers(0, 200)), max_size=12)


MADE = st.sampled_from([KeysValues, lambda: OneBlock([Kept(0, 3, 4, 6), Kept(30, 3, 4, 6)], torch.float32)])


@given(WORK, MADE)
def test_whatever_is_done_the_tokens_stand_at_their_places(work, made):
    """Against a list of numbers, one for each token."""
    memory, numbers, following = made(), [], 0
    for what, count in work:
        if what == "write" and count:
            new = list(range(following, following + count))
            following += count
            column = torch.tensor(new, dtype=torch.float32)[None, :, None]
            for layer in range(2):
                memory.write(layer, column.expand(3, -1, 4) + layer, column.expand(3, -1, 6) * 2)
            memory.length += count
            numbers += new
        elif what == "crop":
            length = min(count, len(numbers))
            memory.crop(length)
            del numbers[length:]
        elif what == "copy":
            length = min(count, len(numbers))
            memory = memory.copy(length)
            del numbers[length:]
        assert memory.length == len(numbers)
    if not following:
        return
    for layer in range(2):
        keys, values = memory.read(layer, 0, memory.length)
        assert keys.shape == (3, len(numbers), 4)
        assert keys[2, :, 3].tolist() == [number + layer for number in numbers]
        assert values[2, :, 5].tolist() == [number * 2 for number in numbers]


def test_a_copy_is_apart():
    memory = KeysValues()
    memory.write(0, torch.ones(1, 3, 2), torch.ones(1, 3, 2))
    memory.length = 3
    twin = memory.copy(2)
    twin.write(0, torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
    assert memory.read(0, 0, 3)[0].min() == 1


def test_bytes_are_those_of_its_tensors():
    memory = KeysValues()
    assert memory.bytes == 0
    memory.write(0, torch.ones(2, 3, 4), torch.ones(2, 3, 5))
    assert memory.bytes == 4 * 2 * 64 * (4 + 5)
