"""A block's statistics weigh an error in the block just as its tensor's statistics weigh it there."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.dtypes import DTYPES
from nwc_core.matrices import Layout
from nwc_workflows.block_statistics import cut_statistics, read_statistics
from nwc_workflows.blocks import Block, cut_tensor
from nwc_workflows.calibration.reading import WeightStatistics
from nwc_workflows.sources import SourceTensor


def tensor(shape):
    return SourceTensor("w", DTYPES["F32"], shape, "model.safetensors", 0, 4 * math.prod(shape))


def random_statistics(shape, layout, seed=0):
    rng = np.random.default_rng(seed)
    k, m, n = layout.matrix_shape(shape)
    half = rng.normal(size=(k, n, n)).astype(np.float32)
    return WeightStatistics(
        layout, half @ half.transpose(0, 2, 1), rng.uniform(0.5, 2, (k, m)).astype(np.float32), np.ones(k, np.int64)
    )


def loss(matrices, hessian, rows):
    """sum over k and i of rows[k, i] e_ki H_k e_ki', for errors [k, m, n]."""
    return float(np.einsum("km,kmi,kij,kmj->", rows, matrices, hessian, matrices))


@st.composite
def cases(draw):
    """(shape, layout, limit of a block)."""
    rank = draw(st.integers(2, 4))
    shape = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    order = tuple(draw(st.permutations(range(rank))))
    batch = draw(st.integers(0, rank - 2))
    rows = draw(st.integers(1, rank - batch - 1))
    kernel = draw(st.integers(0, rank - batch - rows))
    return shape, Layout(order, batch, rows, kernel), draw(st.integers(1, 60))


@given(cases())
def test_an_error_in_a_block_costs_the_same_by_either(case):
    shape, layout, limit = case
    whole = random_statistics(shape, layout)
    rng = np.random.default_rng(1)
    blocks = cut_tensor(tensor(shape), limit)
    for block in blocks:
        if len(block.shape) < 1:
            continue
        error = rng.normal(size=block.shape).astype(np.float32)
        padded = np.zeros(math.prod(shape), np.float32)
        padded[block.start : block.stop] = error.reshape(-1)
        found = cut_statistics(whole, block)
        k, m, n = found.layout.matrix_shape(block.shape)
        assert found.hessian.shape == (k, n, n)
        assert found.rows.shape == (k, m)
        wanted = loss(layout.to_matrices(padded.reshape(shape)), whole.hessian, whole.rows)
        assert loss(found.layout.to_matrices(error), found.hessian, found.rows) == pytest.approx(wanted, rel=1e-4)
        assert found.layout.taps(block.shape) <= layout.taps(shape)


@pytest.mark.parametrize(
    ("shape", "layout", "limit", "block_layout", "sizes"),
    [
        ((8, 6), Layout((0, 1), 0, 1), 24, Layout((0, 1), 0, 1), (1, 4, 6)),  # rows of a linear layer
        ((8, 6), Layout((1, 0), 0, 1), 24, Layout((1, 0), 0, 1), (1, 6, 4)),  # inputs of one that is stored turned
        ((4, 3, 5), Layout((0, 1, 2), 1, 1), 30, Layout((0, 1, 2), 1, 1), (2, 3, 5)),  # experts of a stack
        ((2, 6, 5), Layout((0, 2, 1), 1, 1), 15, Layout((1, 0), 0, 1), (1, 5, 3)),  # inputs of one expert
        ((6, 2, 3, 3), Layout((0, 1, 2, 3), 0, 1, kernel=2), 60, Layout((0, 1, 2, 3), 0, 1, kernel=2), (1, 3, 18)),
    ],
)
def test_how_a_block_is_seen(shape, layout, limit, block_layout, sizes):
    block = cut_tensor(tensor(shape), limit)[1]
    found = cut_statistics(random_statistics(shape, layout), block)
    assert found.layout == block_layout
    assert found.layout.matrix_shape(block.shape) == sizes


class Known:
    """A calibration of one tensor, which counts how often it is read."""

    class store:  # noqa: N801
        uri = "file:///somewhere"

    fingerprint = "0" * 64

    def __init__(self, statistics):
        self.statistics, self.reads = statistics, 0

    def get(self, name):
        self.reads += 1
        return self.statistics


@pytest.fixture(autouse=True)
def forget():
    from nwc_workflows import block_statistics

    block_statistics._last.clear()


def block_of(shape):
    return Block(tensor(shape), 0, 0, shape, lossy=True)


def test_a_tensor_is_read_once_for_all_its_blocks():
    layout = Layout((0, 1), 0, 1)
    known = Known(random_statistics((8, 6), layout))
    for block in cut_tensor(tensor((8, 6)), 12):
        assert read_statistics(known, block).rows.shape == (1, 2)
    assert known.reads == 1


def test_rows_that_hardly_count_count_a_little():
    rows = np.array([[0.0, 1.0, 1e-9, 3.0]], np.float32)
    known = Known(WeightStatistics(Layout((0, 1), 0, 1), None, rows, np.ones(1, np.int64)))
    assert read_statistics(known, block_of((4, 6))).rows == pytest.approx(np.array([[0.1, 1.0, 0.1, 3.0]]))


def test_an_expert_that_was_never_used_counts_like_the_others():
    rows = np.array([[1.0, 3.0], [0.0, 0.0]], np.float32)
    known = Known(WeightStatistics(Layout((0, 1, 2), 1, 1), None, rows, np.array([5, 0])))
    found = read_statistics(known, block_of((2, 2, 6))).rows
    assert (found > 0).all()
    assert found[1] == pytest.approx([0.1, 0.1])


def test_what_says_nothing_is_none():
    layout, positions = Layout((0, 1), 0, 1), np.ones(1, np.int64)
    for statistics in (
        None,
        WeightStatistics(layout, None, None, positions),
        WeightStatistics(layout, np.eye(6, dtype=np.float32)[None], np.zeros((1, 4), np.float32), positions),
    ):
        assert read_statistics(Known(statistics), block_of((4, 6))) is None
        from nwc_workflows import block_statistics

        block_statistics._last.clear()
    assert read_statistics(None, block_of((4, 6))) is None


def test_inputs_alone_are_kept():
    hessian = np.eye(6, dtype=np.float32)[None]
    known = Known(WeightStatistics(Layout((0, 1), 0, 1), hessian, None, np.ones(1, np.int64)))
    found = read_statistics(known, block_of((4, 6)))
    assert found.rows is None
    assert (found.hessian == hessian).all()
