"""Cutting: every element in exactly one block, no block too large, the same cuts whoever does the work."""

import math
from itertools import pairwise

import pytest
from checkpoints import lossy_tensors, normal, save
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.codec import MIN_LOSSY_WEIGHTS
from nwc_core.dtypes import DTYPES
from nwc_workflows.blocks import (
    BYTES_PER_WEIGHT,
    MAX_BLOCK_WEIGHTS,
    MAX_TASK_WEIGHTS,
    MIN_TASK_WEIGHTS,
    cut_tensor,
    pack_tasks,
)
from nwc_workflows.sources import SourceTensor, open_checkpoint, read_bytes, to_tensor


def tensor(*shape, dtype="F32", name="w"):
    size = math.prod(shape) * DTYPES[dtype].itemsize
    return SourceTensor(name, DTYPES[dtype], shape, "model.safetensors", 100, 100 + size)


SHAPES = st.lists(st.integers(0, 12), max_size=4).map(tuple)


@given(SHAPES, st.integers(1, 3000))
def test_blocks_tile_the_tensor(shape, limit):
    whole = tensor(*shape)
    blocks = cut_tensor(whole, limit)
    assert blocks[0].start == 0
    assert blocks[-1].stop == whole.numel
    assert all(a.stop == b.start for a, b in pairwise(blocks))
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert all(block.numel <= limit for block in blocks)
    assert len(blocks) == 1 or all(block.numel for block in blocks)
    assert sum(block.nbytes for block in blocks) == whole.nbytes


@given(SHAPES, st.integers(1, 3000))
def test_a_block_is_rows_of_its_tensor(shape, limit):
    for block in cut_tensor(tensor(*shape), limit):
        if block.shape != shape:
            assert len(block.shape) >= 1
            inner = block.shape[1:]
            assert shape[len(shape) - len(inner) :] == inner
            assert block.start % math.prod(inner) == 0


@given(SHAPES, st.integers(1, 3000), st.sampled_from(sorted(DTYPES)))
def test_only_blocks_that_suit_the_lossy_coder_go_there(shape, limit, dtype):
    for block in cut_tensor(tensor(*shape, dtype=dtype), limit):
        matrix = sum(size > 1 for size in block.shape) > 1 and block.numel >= MIN_LOSSY_WEIGHTS
        assert block.lossy == (matrix and DTYPES[dtype].lossy)


@pytest.mark.parametrize(
    ("shape", "limit", "pieces"),
    [
        ((), 1, [()]),
        ((0, 5), 1, [(0, 5)]),
        ((10,), 4, [(4,), (4,), (2,)]),
        ((100, 10), 1000, [(100, 10)]),
        ((100, 10), 300, [(25, 10)] * 4),  # of equal size, not 30, 30, 30 and 10
        ((7, 300), 600, [(2, 300)] * 3 + [(1, 300)]),
        ((6, 8, 5), 80, [(2, 8, 5)] * 3),  # whole experts where they fit
        ((3, 8, 5), 20, [(4, 5)] * 6),  # else rows of one, never of two
        ((2, 3, 50), 20, [(17,), (17,), (16,)] * 6),  # a row larger than a block
        ((1, 1, 100, 100), 5000, [(50, 100), (50, 100)]),  # a causal mask as GPT-2 stores it
        ((3, 3, 40, 50), 9000, [(1, 3, 40, 50)] * 3),  # a kernel as TensorFlow stores it
    ],
)
def test_where_the_cuts_are(shape, limit, pieces):
    assert [block.shape for block in cut_tensor(tensor(*shape), limit)] == pieces


def test_no_tensor_makes_a_block_that_a_worker_cannot_hold():
    for shape in [(1, 1, 1 << 16, 1 << 16), (1 << 30,), (128, 1 << 14, 1 << 14), (3, 3, 2048, 2048)]:
        blocks = cut_tensor(tensor(*shape, dtype="I64"))
        assert max(block.numel for block in blocks) <= MAX_BLOCK_WEIGHTS
        assert max(task.memory for task in pack_tasks(blocks)) < 1.2e9


def test_a_leftover_below_the_lossy_minimum_is_lossless():
    blocks = cut_tensor(tensor(5, 500), 1000)
    assert [(block.numel, block.lossy) for block in blocks] == [(1000, False), (1000, False), (500, False)]
    blocks = cut_tensor(tensor(5, 600), 1200)
    assert [(block.numel, block.lossy) for block in blocks] == [(1200, True), (1200, True), (600, False)]


@given(st.lists(st.integers(0, 3 << 20), max_size=40), st.integers(1 << 18, 1 << 20))
def test_tasks_hold_every_block_once_and_in_order(sizes, limit):
    blocks = [block for i, size in enumerate(sizes) for block in cut_tensor(tensor(size, name=f"t{i}"), limit)]
    tasks = pack_tasks(iter(blocks))
    assert [block for task in tasks for block in task.blocks] == blocks
    assert len({task.key for task in tasks}) == len(tasks)
    assert all(task.blocks for task in tasks)
    for task in tasks:
        assert sum(block.numel for block in task.blocks) <= max(MAX_TASK_WEIGHTS, limit)
        assert task.memory > max(block.numel for block in task.blocks) * BYTES_PER_WEIGHT
    # No two neighbours would have fitted into one.
    sums = [sum(block.numel for block in task.blocks) for task in tasks]
    assert all(a + b > MIN_TASK_WEIGHTS for a, b in pairwise(sums))


def test_a_large_checkpoint_keeps_many_workers_busy():
    blocks = [block for i in range(6400) for block in cut_tensor(tensor(1024, 1024, name=f"t{i}"))]
    assert len(pack_tasks(blocks[:64])) == 8
    assert len(pack_tasks(blocks)) == 800


def test_what_may_be_copies_is_coded_by_one_worker():
    names = ["head", *(f"t{i}" for i in range(20)), "embed"]
    blocks = [block for name in names for block in cut_tensor(tensor(4096, 1024, name=name), 1 << 21)]
    tasks = pack_tasks(blocks, alike={"head": "embed", "t3": "t2"})
    assert sorted(map(str, blocks)) == sorted(str(block) for task in tasks for block in task.blocks)
    first = [(block.tensor.name, block.number) for block in tasks[0].blocks]
    assert first[:4] == [("embed", 0), ("head", 0), ("embed", 1), ("head", 1)]  # where the first of them was
    for task in tasks:
        of_task = [(block.tensor.name, block.number) for block in task.blocks]
        assert all(("t3", number) in of_task for name, number in of_task if name == "t2")


def test_blocks_that_share_a_wide_factor_stay_together():
    blocks = [block for name in "ab" for block in cut_tensor(tensor(4096, 8192, name=name), 1 << 22)]
    assert [len(task.blocks) for task in pack_tasks(blocks)] == [2] * 8
    assert [len(task.blocks) for task in pack_tasks(blocks, {"a": 8192, "b": 512})] == [8, 2, 2, 2, 2]
    huge = cut_tensor(tensor(1 << 15, 4096), 1 << 22)
    assert [len(task.blocks) for task in pack_tasks(huge, {huge[0].tensor.name: 4096})] == [16, 16]


def test_tensors_cannot_make_tasks_of_one_name():
    names = ["w", "w#0", "w#0 and 1 more", "w#0 and 1 more#0"]
    blocks = [block for name in names for block in cut_tensor(tensor(1 << 20, name=name), 1 << 19)]
    tasks = pack_tasks(blocks)
    assert len({task.key for task in tasks}) == len(tasks) == 4


def test_the_bytes_of_a_block_are_the_elements_that_it_says(tmp_path):
    """Read by byte range, as workers do, and put together again."""
    tensors = {**lossy_tensors(), "stack": normal(3, 50, 30)}
    checkpoint = open_checkpoint(save(tmp_path / "m.safetensors", tensors))
    for source in checkpoint.tensors:
        flat = tensors[source.name].reshape(-1)
        for block in cut_tensor(source, 1500):
            part = to_tensor(read_bytes(checkpoint, source, block.start, block.stop), source.dtype, block.shape)
            assert part.reshape(-1).equal(flat[block.start : block.stop])
