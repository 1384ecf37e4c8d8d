"""Vectors of lanes do what numpy does, operation by operation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from numba.core.errors import LoweringError

from nwc_core.kernels import kernel
from nwc_core.vector import (
    WIDTH,
    below,
    bits,
    clip,
    compress,
    count,
    divide,
    expand,
    floor,
    gather,
    iota,
    load,
    reverse,
    select,
    shift_right,
    splat,
    store,
    to_float,
)

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
RNG = np.random.default_rng(7)
EDGES = [0, 1, -1, 2**31 - 1, -(2**31), 65535, 65536, -65536]


@kernel
def integer_results(a, b, places, out):  # type: ignore[no-untyped-def]
    x, y, n = load(a, 0), load(b, 0), load(places, 0)
    results = (x + y, x - y, x * y, x & y, x | y, x ^ y, x << n, x >> n, shift_right(x, n), 7 - x, clip(x, -5, 9))
    for i, result in enumerate(results):
        store(out, i * WIDTH, result)
    masks = (x < y, x > y, x == y, below(x, y), (x < y) | (x == y), (x < y) & below(y, x), x > 3, below(2, x))
    for i, mask in enumerate(masks):
        store(out, (len(results) + i) * WIDTH, select(mask, splat(1), 0))
        out[(len(results) + len(masks) + i) * WIDTH] = bits(mask)
        out[(len(results) + len(masks) + i) * WIDTH + 1] = count(mask)


def bit_pattern(mask: npt.NDArray[np.bool_]) -> int:
    return sum(int(flag) << lane for lane, flag in enumerate(mask))


@pytest.mark.parametrize("seed", range(5))
def test_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-(2**31), 2**31, WIDTH).astype(np.int32) for _ in range(2))
    a[:8], b[3:11], a[20:24] = EDGES, EDGES, b[20:24]
    n = rng.integers(0, 32, WIDTH).astype(np.int32)
    out = np.zeros(27 * WIDTH, np.int32)
    integer_results(a, b, n, out)
    ua, ub = a.view(np.uint32), b.view(np.uint32)
    expected = [
        *(a + b, a - b, a * b, a & b, a | b, a ^ b, a << n, a >> n, (ua >> n.view(np.uint32)).view(np.int32)),
        *(7 - a, np.clip(a, -5, 9)),
    ]
    masks = [a < b, a > b, a == b, ua < ub, a <= b, (a < b) & (ub < ua), a > 3, ua > 2]
    rows = out.reshape(-1, WIDTH)
    for i, values in enumerate([*expected, *(mask.astype(np.int32) for mask in masks)]):
        assert (rows[i] == values).all(), i
    for row, mask in zip(rows[len(expected) + len(masks) :], masks, strict=True):
        assert int(row[0]) & 0xFFFFFFFF == bit_pattern(mask)
        assert row[1] == mask.sum()


@kernel
def float_results(a, b, c, out, whole):  # type: ignore[no-untyped-def]
    x, y, z = load(a, 0), load(b, 0), load(c, 0)
    # The second would be another number if product and sum were fused into one rounding.
    results = (x - y, x * y + z, x * 0.25 + 0.5, clip(x, -1.5, 2.0), select(x < y, x, y), to_float(iota()))
    for i, result in enumerate(results):
        store(out, i * WIDTH, result)
    store(whole, 0, floor(x))


def test_floats_are_rounded_after_every_operation() -> None:
    a, b, c = (RNG.standard_normal(WIDTH).astype(np.float32) * np.float32(50) for _ in range(3))
    a[:4] = [3.0, -3.0, -0.25, 0.0]
    out, whole = np.empty(6 * WIDTH, np.float32), np.empty(WIDTH, np.int32)
    float_results(a, b, c, out, whole)
    expected = [a - b, a * b + c, a * np.float32(0.25) + np.float32(0.5), np.clip(a, -1.5, 2), np.minimum(a, b)]
    assert (out.reshape(-1, WIDTH) == [*expected, np.arange(WIDTH, dtype=np.float32)]).all()
    fused = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (fused != expected[1]).any()
    assert (whole == np.floor(a)).all()


@kernel
def gathered(numbers, reals, small, index, out, out_reals):  # type: ignore[no-untyped-def]
    at = load(index, 0)
    store(out, 0, gather(numbers, at))
    store(out, WIDTH, gather(small, at))
    store(out, 2 * WIDTH, reverse(load(small, 5)))
    store(out_reals, 0, gather(reals, at))


@pytest.mark.parametrize("byte", [np.int8, np.uint8])
def test_tables_are_looked_up(byte: type[np.integer]) -> None:
    numbers = RNG.integers(-(2**31), 2**31, 1000).astype(np.int32)
    reals = RNG.standard_normal(1000).astype(np.float32)
    small = RNG.integers(0, 256, 1003).astype(np.uint8).view(byte)
    index = RNG.integers(0, 1000, WIDTH).astype(np.int32)
    index[0], index[1] = 999, 0
    out, out_reals = np.empty(3 * WIDTH, np.int32), np.empty(WIDTH, np.float32)
    gathered(numbers, reals, small, index, out, out_reals)
    assert (out.reshape(3, -1) == [numbers[index], small[index], small[5 : 5 + WIDTH][::-1]]).all()
    assert (out_reals == reals[index]).all()


@kernel
def packed(words, flags, values, short, out):  # type: ignore[no-untyped-def]
    mask = load(flags, 0) > 0
    compress(short, 3, load(values, 0), mask)
    store(out, 0, select(mask, expand(words, 2, mask), -1))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_some_lanes_are_packed_and_unpacked(share: float) -> None:
    flags = (RNG.random(WIDTH) < share).astype(np.int32)
    chosen = flags > 0
    words = RNG.integers(0, 2**32, 2 + int(flags.sum()), dtype=np.uint32)
    values = RNG.integers(0, 2**31, WIDTH).astype(np.int32)
    short, out = np.full(3 + WIDTH, 7, np.uint16), np.empty(WIDTH, np.int32)
    packed(words, flags, values, short, out)
    assert (short[:3] == 7).all()
    assert (short[3 : 3 + int(flags.sum())] == (values[chosen] & 0xFFFF)).all()
    assert (out[chosen] == words[2:].view(np.int32)).all()
    assert (out[~chosen] == -1).all()


@kernel
def quotients(a, b, out):  # type: ignore[no-untyped-def]
    store(out, 0, divide(load(a, 0), load(b, 0)))


def test_division_is_exact_next_to_multiples() -> None:
    """Where a quotient that is a hair off would show: one below, at and above a multiple of the divisor."""
    for _ in range(300):
        divisor = RNG.integers(1, 1 << 14, WIDTH)
        quotient = RNG.integers(0, 1 << 18, WIDTH)
        value = np.clip(divisor * quotient + RNG.integers(-1, 2, WIDTH), 0, 2**32 - 1)
        out = np.empty(WIDTH, np.int32)
        quotients(value.astype(np.uint32), divisor.astype(np.int32), out)
        assert (out == value // divisor).all()


@pytest.mark.parametrize("array", [np.zeros(200, np.int32)[::2], np.zeros((2, 100), np.int32)])
def test_arrays_whose_strides_would_be_overlooked_do_not_compile(array: Ints) -> None:
    with pytest.raises(LoweringError, match="contiguous"):
        quotients(array, np.ones(WIDTH, np.int32), np.empty(WIDTH, np.int32))
