from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bainmarie_worker.engine.captured.pages import Pages, Pool
from bainmarie_worker.engine.keys_values import KeysValues
from bainmarie_worker.engine.memory import NoRoom

WORK = st.lists(
    st.tuples(st.sampled_from(["write", "crop", "copy", "drop"]), st.integers(0, 5), st.integers(0, 30)), max_size=40
)
HEADS, SIZE, LAYERS = 2, 3, 2


def pool(pages, page=4):
    like = KeysValues()
    for layer in range(LAYERS):
        like.write(layer, torch.zeros(HEADS, 1, SIZE), torch.zeros(HEADS, 1, SIZE + 1))
    return Pool(like, (pages + 1) * page * LAYERS * HEADS * (2 * SIZE + 1) * 4, page)


def write(memory, numbers):
    memory.reserve(memory.length + len(numbers))
    column = torch.tensor(numbers, dtype=torch.float32)[None, :, None]
    for layer in range(LAYERS):
        memory.write(layer, column.expand(HEADS, -1, SIZE) + layer, column.expand(HEADS, -1, SIZE + 1) * 2)
    memory.length += len(numbers)


def read(memory):
    """What stands there, once all layers, heads and places agree on it."""
    found = []
    for layer in range(LAYERS):
        keys, values = memory.read(layer, 0, memory.length)
        assert keys.shape == (HEADS, memory.length, SIZE)
        assert values.shape == (HEADS, memory.length, SIZE + 1)
        found += [(keys - layer).unbind(-1), (values / 2).unbind(-1)]
    rows = torch.cat([torch.stack(columns).flatten(0, 1) for columns in found])
    assert (rows == rows[:1]).all()
    return rows[0].tolist()


@given(WORK)
def test_copies_share_pages_and_nobody_sees_what_another_writes(work):
    there = pool(120)
    memories, told, following = [Pages(there)], [[]], 0
    for what, which, count in work:
        place = which % len(memories)
        memory, numbers = memories[place], told[place]
        if what == "write" and count:
            new = list(range(following, following + count))
            following += count
            write(memory, new)
            numbers += new
        elif what == "crop":
            memory.crop(min(count, memory.length))
            del numbers[count:]
        elif what == "copy" and len(memories) < 6:
            length = min(count, memory.length)
            memories.append(memory.copy(length))
            told.append(numbers[:length])
        elif what == "drop" and len(memories) > 1:
            del memories[place], told[place], memory
        assert [memory.length for memory in memories] == [len(numbers) for numbers in told]
    assert [read(memory) if memory.length else [] for memory in memories] == told
    held = {page for memory in memories for page in memory.table}
    assert sum(memory.bytes for memory in memories) == pytest.approx(len(held) * there.bytes / 120, abs=6)
    memories.clear()
    assert Pages(there).bytes == 0
    memory = Pages(there)
    memory.reserve(120 * 4)  # all pages have come back


def test_a_copy_costs_nothing_before_one_of_both_writes():
    there = pool(10)
    first = Pages(there)
    write(first, list(range(6)))
    before = first.bytes
    twin = first.copy(5)
    assert first.bytes + twin.bytes == before
    assert twin.table == first.table
    write(twin, [9])
    assert twin.table[0] == first.table[0]
    assert twin.table[1] != first.table[1]
    assert read(first) == [0, 1, 2, 3, 4, 5]
    assert read(twin) == [0, 1, 2, 3, 4, 9]


def test_a_page_begins_with_zeros_whatever_was_there():
    """What is not a number would spoil what is multiplied by zero."""
    there = pool(1)
    memory = Pages(there)
    write(memory, [torch.nan] * 4)
    del memory
    memory = Pages(there)
    memory.reserve(1)
    assert all(part[memory.table[0]].count_nonzero() == 0 for layer in there.layers for part in layer)


def test_it_grows_and_its_tensors_move():
    there = pool(1000)
    memory = Pages(there)
    write(memory, list(range(40)))
    address = there.layers[0][0].data_ptr()
    assert there.moves == 0
    write(memory, list(range(40, 1000)))
    assert there.moves > 0
    assert there.layers[0][0].data_ptr() != address
    assert read(memory) == list(range(1000))


def test_beyond_its_bound_there_is_no_room_and_nothing_is_lost():
    there = pool(3)
    assert there.bytes == 3 * 4 * LAYERS * HEADS * (2 * SIZE + 1) * 4
    first, second = Pages(there), Pages(there)
    write(first, list(range(8)))
    with pytest.raises(NoRoom, match="all 3 pages of 4 tokens are taken"):
        second.reserve(5)
    assert read(first) == list(range(8))
    write(second, [5])
    del first
    write(second, list(range(8)))
    assert read(second) == [5, *range(8)]
