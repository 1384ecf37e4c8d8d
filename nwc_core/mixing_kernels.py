"""Undoing a basis: Q' = I - U B / 2^SHIFT applied to integers, and what comes out as weights, in one compiled loop.

A few rows, or a few columns, at a time, so that what is between the two products stays in the nearest cache; without going
back to the interpreter, for which threads would wait for each other. Four sums of 32 lanes are under way at once: as many as
fill the registers of the widest processors.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from nwc_core.doubles import (
    add_float_product,
    add_product,
    bits_of,
    doubles_of,
    floats_of,
    load_doubles,
    nearest,
    no_doubles,
    no_floats,
    store_doubles,
    times,
    total,
)
from nwc_core.kernels import kernel
from nwc_core.vector import WIDTH, load, shift_right, store

_Float = TypeVar("_Float", np.float64, np.float32)
AT_ONCE = 4
_LINE = 64
_MOST_RANK_WITHOUT = 8  # 512 bits: sums then go to memory and back at every step


@cache
def most_rank() -> int:
    """Up to which rank these are quicker than products by BLAS: any, where four sums fit the processor's registers."""
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    return 1 << 30 if llvm.get_host_cpu_features().get("avx512f") else _MOST_RANK_WITHOUT


def aligned(values: npt.NDArray[_Float]) -> npt.NDArray[_Float]:
    """A copy that starts where a line of the cache does: every vector that crosses lines is read twice."""
    room = np.empty(values.nbytes + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _put(out, at, weights):  # type: ignore[no-untyped-def]
    """Write FLOAT to a flat array of float32, or of the bits of bfloat16; compiled code only."""
    raise NotImplementedError


@overload(_put)
def _put_as(out, at, weights):  # type: ignore[no-untyped-def]
    def exact(out, at, weights):  # type: ignore[no-untyped-def]
        store(out, at, weights)

    def rounded(out, at, weights):  # type: ignore[no-untyped-def]
        bits = bits_of(weights)
        store(out, at, shift_right(bits + 0x7FFF + (shift_right(bits, 16) & 1), 16))

    return rounded if out.dtype == types.uint16 else exact


def _keep(short, at, some):  # type: ignore[no-untyped-def]
    """Write DOUBLE to an array of float32, nothing to one of float64; compiled code only."""
    raise NotImplementedError


@overload(_keep)
def _keep_as(short, at, some):  # type: ignore[no-untyped-def]
    def kept(short, at, some):  # type: ignore[no-untyped-def]
        store(short, at, floats_of(some))

    def unused(short, at, some):  # type: ignore[no-untyped-def]
        pass

    return kept if short.dtype == types.float32 else unused


def _project(values, short, u, size, sums):  # type: ignore[no-untyped-def]
    """Less the products of four rows with each of the vectors, which are float32 or float64; compiled code only."""
    raise NotImplementedError


@overload(_project)
def _project_as(values, short, u, size, sums):  # type: ignore[no-untyped-def]
    def in_doubles(values, short, u, size, sums):  # type: ignore[no-untyped-def]
        for j in range(u.size // size):
            s0, s1, s2, s3 = no_doubles(), no_doubles(), no_doubles(), no_doubles()
            for k in range(0, size, WIDTH):
                vector = load_doubles(u, j * size + k)
                s0 = add_product(load_doubles(values, k), vector, s0)
                s1 = add_product(load_doubles(values, size + k), vector, s1)
                s2 = add_product(load_doubles(values, 2 * size + k), vector, s2)
                s3 = add_product(load_doubles(values, 3 * size + k), vector, s3)
            sums[AT_ONCE * j], sums[AT_ONCE * j + 1] = -total(s0), -total(s1)
            sums[AT_ONCE * j + 2], sums[AT_ONCE * j + 3] = -total(s2), -total(s3)

    def in_floats(values, short, u, size, sums):  # type: ignore[no-untyped-def]
        for j in range(u.size // size):
            s0, s1, s2, s3 = no_floats(), no_floats(), no_floats(), no_floats()
            for k in range(0, size, WIDTH):
                vector = load(u, j * size + k)
                s0 = add_float_product(load(short, k), vector, s0)
                s1 = add_float_product(load(short, size + k), vector, s1)
                s2 = add_float_product(load(short, 2 * size + k), vector, s2)
                s3 = add_float_product(load(short, 3 * size + k), vector, s3)
            sums[AT_ONCE * j], sums[AT_ONCE * j + 1] = -total(s0), -total(s1)
            sums[AT_ONCE * j + 2], sums[AT_ONCE * j + 3] = -total(s2), -total(s3)

    return in_floats if u.dtype == types.float32 else in_doubles


@kernel
def mix_rows(points, row_factor, factor, fixed, u, b, one, row_step, column_step, out, values, short, sums):  # type: ignore[no-untyped-def]
    """Points times Q', as weights.

    Args:
        points: [rows, size] int32; rows a multiple of 4, size one of 32.
        row_factor, factor: [rows] and [size] float64, what points are multiplied by first, if `fixed`.
        u, b: [r, size], the vectors as rows, and B; u float64, or float32 if products with it are exact in that.
        one: 2^SHIFT.
        row_step, column_step: [rows] and [size] float32.
        out: [rows, size] to fill, float32 or the bits of bfloat16.
        values, short, sums: scratch, [4 * size] float64, the same of u's type, [4 * r] float64.
    """
    rows, size = points.shape
    rank = u.shape[0]
    flat_u, flat_b = u.reshape(u.size), b.reshape(b.size)
    flat_points, flat_out = points.reshape(points.size), out.reshape(out.size)
    for first in range(0, rows, AT_ONCE):
        for i in range(AT_ONCE):
            for k in range(0, size, WIDTH):
                some = doubles_of(load(flat_points, (first + i) * size + k))
                if fixed:
                    some = nearest(times(some, times(load_doubles(factor, k), row_factor[first + i])))
                store_doubles(values, i * size + k, some)
                _keep(short, i * size + k, some)  # type: ignore[no-untyped-call]
        _project(values, short, flat_u, size, sums)  # type: ignore[no-untyped-call]
        for k in range(0, size, WIDTH):
            s0, s1, s2, s3 = no_doubles(), no_doubles(), no_doubles(), no_doubles()
            for j in range(rank):
                vector = load_doubles(flat_b, j * size + k)
                s0 = add_product(sums[AT_ONCE * j], vector, s0)
                s1 = add_product(sums[AT_ONCE * j + 1], vector, s1)
                s2 = add_product(sums[AT_ONCE * j + 2], vector, s2)
                s3 = add_product(sums[AT_ONCE * j + 3], vector, s3)
            steps, at = load(column_step, k), first * size + k
            _put(flat_out, at, floats_of(add_product(one, load_doubles(values, k), s0)) * (steps * row_step[first]))  # type: ignore[no-untyped-call]
            _put(
                flat_out,
                at + size,
                floats_of(add_product(one, load_doubles(values, size + k), s1)) * (steps * row_step[first + 1]),
            )  # type: ignore[no-untyped-call]
            _put(
                flat_out,
                at + 2 * size,
                floats_of(add_product(one, load_doubles(values, 2 * size + k), s2)) * (steps * row_step[first + 2]),
            )  # type: ignore[no-untyped-call]
            _put(
                flat_out,
                at + 3 * size,
                floats_of(add_product(one, load_doubles(values, 3 * size + k), s3)) * (steps * row_step[first + 3]),
            )  # type: ignore[no-untyped-call]


@kernel
def mix_columns(  # type: ignore[no-untyped-def]
    points, left, columns, row_factor, factor, fixed, u, b, one, row_step, column_step, out, to, values, sums
):
    """Q times columns [left, left + columns) of points, as weights; the same otherwise.

    Args:
        points: [size, ...] int32, size a multiple of 4; columns a multiple of 32.
        row_factor, factor, row_step, column_step: [size] and [columns], of these columns.
        u, b: [size, r] and [size, r] float64, the vectors as columns, and B's columns as rows; r a multiple of 4.
        out: [size, ...], filled from column `to` on.
        values, sums: scratch, [32 * size] and [32 * r].
    """
    size, rank = u.shape
    width, out_width = points.shape[1], out.shape[1]
    flat_u, flat_b = u.reshape(u.size), b.reshape(b.size)
    flat_points, flat_out = points.reshape(points.size), out.reshape(out.size)
    for c in range(0, columns, WIDTH):
        for i in range(size):
            some = doubles_of(load(flat_points, i * width + left + c))
            if fixed:
                some = nearest(times(some, times(load_doubles(factor, c), row_factor[i])))
            store_doubles(values, i * WIDTH, some)
        for j in range(0, rank, AT_ONCE):
            s0, s1, s2, s3 = no_doubles(), no_doubles(), no_doubles(), no_doubles()
            for i in range(size):
                some, at = load_doubles(values, i * WIDTH), i * rank + j
                s0 = add_product(-flat_u[at], some, s0)
                s1 = add_product(-flat_u[at + 1], some, s1)
                s2 = add_product(-flat_u[at + 2], some, s2)
                s3 = add_product(-flat_u[at + 3], some, s3)
            store_doubles(sums, j * WIDTH, s0)
            store_doubles(sums, (j + 1) * WIDTH, s1)
            store_doubles(sums, (j + 2) * WIDTH, s2)
            store_doubles(sums, (j + 3) * WIDTH, s3)
        steps = load(column_step, c)
        for i in range(0, size, AT_ONCE):
            s0, s1, s2, s3 = no_doubles(), no_doubles(), no_doubles(), no_doubles()
            for j in range(rank):
                some, at = load_doubles(sums, j * WIDTH), i * rank + j
                s0 = add_product(flat_b[at], some, s0)
                s1 = add_product(flat_b[at + rank], some, s1)
                s2 = add_product(flat_b[at + 2 * rank], some, s2)
                s3 = add_product(flat_b[at + 3 * rank], some, s3)
            at, put = i * WIDTH, i * out_width + to + c
            _put(flat_out, put, floats_of(add_product(one, load_doubles(values, at), s0)) * (steps * row_step[i]))  # type: ignore[no-untyped-call]
            _put(
                flat_out,
                put + out_width,
                floats_of(add_product(one, load_doubles(values, at + WIDTH), s1)) * (steps * row_step[i + 1]),
            )  # type: ignore[no-untyped-call]
            _put(
                flat_out,
                put + 2 * out_width,
                floats_of(add_product(one, load_doubles(values, at + 2 * WIDTH), s2)) * (steps * row_step[i + 2]),
            )  # type: ignore[no-untyped-call]
            _put(
                flat_out,
                put + 3 * out_width,
                floats_of(add_product(one, load_doubles(values, at + 3 * WIDTH), s3)) * (steps * row_step[i + 3]),
            )  # type: ignore[no-untyped-call]
