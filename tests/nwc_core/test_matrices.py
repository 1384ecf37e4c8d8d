"""Tensors as matrices: known kinds of weights, and layouts that always invert."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.errors import FormatError
from nwc_core.matrices import Layout, default_layout
from nwc_core.wire import ByteReader, ByteWriter


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    order = tuple(draw(st.permutations(range(len(shape)))))
    batch = draw(st.integers(0, len(shape)))
    return Layout(order, batch, draw(st.integers(0, len(shape) - batch))), shape


@settings(deadline=None)
@given(layouts())
def test_every_layout_inverts_and_is_read_back(case: tuple[Layout, tuple[int, ...]]) -> None:
    layout, shape = case
    tensor = np.arange(math.prod(shape)).reshape(shape)
    matrices = layout.to_matrices(tensor)
    assert matrices.shape == layout.matrix_shape(shape)
    assert matrices.flags.c_contiguous
    again = layout.from_matrices(matrices, shape)
    assert again.flags.c_contiguous
    assert (again == tensor).all()
    out = ByteWriter()
    layout.write(out)
    reader = ByteReader(out.getvalue(), "x")
    assert Layout.read(reader, len(shape)) == layout
    reader.end()


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=6).map(tuple))
def test_default_layout_fits_every_shape(shape: tuple[int, ...]) -> None:
    layout = default_layout(shape)
    assert sorted(layout.order) == list(range(len(shape)))
    count, m, n = layout.matrix_shape(shape)
    assert count * m * n == math.prod(shape)
    assert n % layout.taps(shape) == 0


@pytest.mark.parametrize(
    ("shape", "matrix", "taps"),
    [
        ((768, 3072), (1, 768, 3072), 1),  # linear, and GPT-2's transposed one
        ((30522, 384), (1, 30522, 384), 1),  # embedding
        ((64, 32, 3, 3), (1, 64, 32 * 9), 9),  # convolution, PyTorch
        ((64, 3, 7, 7), (1, 64, 3 * 49), 49),
        ((256, 64, 1, 1), (1, 256, 64), 1),
        ((128, 1, 3, 3), (1, 128, 9), 9),  # depthwise
        ((768, 3, 16, 16), (1, 768, 768), 256),  # patches
        ((32, 16, 3, 5, 5), (1, 32, 16 * 75), 75),  # 3-D convolution
        ((512, 80, 3), (1, 512, 240), 3),  # 1-D convolution
        ((3, 3, 32, 64), (1, 64, 32 * 9), 9),  # convolution, TensorFlow
        ((8, 128, 256), (8, 128, 256), 1),  # experts
        ((40, 20, 30), (1, 800, 30), 1),  # small matrices share one
        ((2, 3, 64, 64), (1, 384, 64), 1),
        ((5,), (1, 5, 1), 1),
        ((), (1, 1, 1), 1),
    ],
)
def test_kinds_of_weights(shape: tuple[int, ...], matrix: tuple[int, int, int], taps: int) -> None:
    layout = default_layout(shape)
    assert layout.matrix_shape(shape) == matrix
    assert layout.taps(shape) == taps


def test_taps_of_a_kernel_are_neighbours() -> None:
    """Of both conventions: columns run over the taps of one input channel, then the next."""
    oihw = np.random.default_rng(0).standard_normal((20, 17, 3, 3))
    hwio = oihw.transpose(2, 3, 1, 0)
    a = default_layout(oihw.shape).to_matrices(oihw)[0]
    b = default_layout(hwio.shape).to_matrices(hwio)[0]
    assert (a == b).all()
    assert (a[4, 9 * 5 : 9 * 6] == oihw[4, 5].reshape(-1)).all()


@pytest.mark.parametrize("record", [b"\0\0\0\1", b"\0\2\0\1", b"\1\0\2\1", b"\1\0\0\3", b"\1\0"])
def test_layouts_that_cannot_be(record: bytes) -> None:
    with pytest.raises(FormatError):
        Layout.read(ByteReader(record, "x"), 2)
