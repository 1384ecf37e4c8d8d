"""Row and column scales: contexts for the entropy coder, never part of the quantiser's step.

sigma_ij = r_i c_j predicts how large a weight is. In eighths of an octave, and less those of the step, it is the level of
the table that codes it: level_ij = base + row_i + column_j, clamped to the tables that exist. Rows and columns are
integers in the side information, each axis with its own resolution (a power of two of levels), chosen so that what
finer scales would save is worth their bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core import intvector
from nwc_core.blas import one_thread
from nwc_core.kernels import kernel
from nwc_core.prior import LEVEL_ZERO, LEVELS, OCTAVE, Prior
from nwc_core.wire import ByteReader, ByteWriter

_SWEEPS = 3  # alternations between rows and columns; the third changes nothing that survives rounding
_FLOOR = 2.0**-24  # an all-zero row counts as this much of the largest
_MAX_SHIFT = 5
_MAX_BASE = 1 << 16


@dataclass(frozen=True)
class Scales:
    """Integer scales of one matrix.

    Attributes:
        base: level of a weight whose row and column are 0, before clamping.
        rows: [m] int32 and columns: [n] int32, to be shifted left by `row_shift` and `column_shift`.
    """

    base: int
    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    row_shift: int
    column_shift: int

    def axes(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """What to add up to levels, before clamping: [m] of rows, the base among it, and [n] of columns."""
        return (self.rows << self.row_shift) + np.int32(self.base), self.columns << self.column_shift

    def write(self, out: ByteWriter, prior: Prior) -> None:
        out.zigzag(self.base)
        out.u8(self.row_shift)
        out.u8(self.column_shift)
        intvector.write(out, self.rows.astype(np.int64), prior)
        intvector.write(out, self.columns.astype(np.int64), prior)

    @classmethod
    def read(cls, reader: ByteReader, m: int, n: int, prior: Prior) -> Scales:
        base, row_shift, column_shift = reader.zigzag(), reader.u8(), reader.u8()
        if abs(base) > _MAX_BASE or max(row_shift, column_shift) > _MAX_SHIFT:
            raise reader.fail(f"base level {base}, shifts {row_shift}, {column_shift}", f"shifts up to {_MAX_SHIFT}")
        rows = intvector.read(reader, m, prior, "row scales")
        columns = intvector.read(reader, n, prior, "column scales")
        return cls(base, rows, columns, row_shift, column_shift)


@kernel
def fill_levels(outer, inner, top, out):  # type: ignore[no-untyped-def]
    """out[i, j] = outer[i] + inner[j], but from 0 to `top`."""
    for i in range(outer.size):
        for j in range(inner.size):
            level = np.int32(outer[i] + inner[j])  # in 64 bits, as a plain sum is, half as many fit a register
            out[i, j] = min(max(level, np.int32(0)), np.int32(top))


def levels_of(outer: npt.NDArray[np.int32], inner: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """[outer, inner] levels: sums of one number of each axis, clamped to the tables that exist."""
    out = np.empty((outer.size, inner.size), np.uint8)
    fill_levels(outer, inner, LEVELS - 1, out)
    return out


@dataclass(frozen=True)
class Spread:
    """Real-valued log scales of a matrix, in levels: `rows[i] + columns[j]` = OCTAVE * log2(sigma_ij)."""

    rows: npt.NDArray[np.float64]
    columns: npt.NDArray[np.float64]

    @classmethod
    def measure(cls, weight: npt.NDArray[np.float32], noise: npt.NDArray[np.float64] | None = None) -> Spread:
        """Fit r_i c_j to a matrix [m, n] with at least one non-zero element: alternating root mean squares.

        With `noise` [n], to the matrix plus independent noise of that variance in each column.
        """
        # Scaled by the peak so that squares of huge or denormal weights stay inside float32.
        largest = max(float(weight.max()), -float(weight.min()))
        squares = weight * np.float32(1 / largest) if largest > 2.0**-120 else weight / np.float32(largest)
        squares *= squares
        if noise is not None:
            squares += (noise / largest**2).astype(np.float32)
        m, n = weight.shape
        columns = np.ones(n, np.float32)
        with one_thread():
            for _ in range(_SWEEPS):
                rows = (squares @ (1 / columns)) / np.float32(n)
                rows = np.maximum(rows, rows.max() * np.float32(_FLOOR))
                columns = ((1 / rows) @ squares) / np.float32(m)
                columns = np.maximum(columns, columns.max() * np.float32(_FLOOR))
        peak = OCTAVE * np.log2(largest)
        half = OCTAVE / 2
        return cls(half * np.log2(rows.astype(np.float64)) + peak, half * np.log2(columns.astype(np.float64)))

    def spectrum(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(levels, counts): how many weights have each level at a step of 1, not clamped."""
        rows, columns = (np.rint(axis).astype(np.int64) for axis in (self.rows, self.columns))
        # The distribution of a sum is the convolution of the distributions.
        counts = np.convolve(np.bincount(rows - rows.min()), np.bincount(columns - columns.min()))
        return np.arange(counts.size) + rows.min() + columns.min() + LEVEL_ZERO, counts.astype(np.float64)

    def scales(self, log2_row_step: npt.NDArray[np.float64], log2_column_step: npt.NDArray[np.float64]) -> Scales:
        """Integer scales for quantiser steps 2^(log2_row_step[i] + log2_column_step[j])."""
        rows = self.rows - OCTAVE * log2_row_step
        columns = self.columns - OCTAVE * log2_column_step + LEVEL_ZERO
        row_mean, column_mean = float(rows.mean()), float(columns.mean())
        base = round(row_mean + column_mean)
        m, n = rows.size, columns.size
        row_shift, row_values, left = _round(rows - row_mean, n)
        # What the base's rounding and the rows' average rounding leave over goes to the columns.
        column_shift, column_values, _ = _round(columns - column_mean + (row_mean + column_mean - base) + left, m)
        return Scales(base, row_values, column_values, row_shift, column_shift)


def _misfit(error: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bits lost per weight where the true level is `error` above the one coded: Kullback-Leibler, Gaussians."""
    x = 2 * math.log(2) / OCTAVE * error
    return (np.expm1(x) - x) / (2 * math.log(2))


def _round(levels: npt.NDArray[np.float64], weights_per_line: int) -> tuple[int, npt.NDArray[np.int32], float]:
    """(shift, values, mean error) that minimise the bits of the values plus those lost by rounding them.

    Besides each resolution, one common value for all lines is tried.
    """
    best: tuple[float, int, npt.NDArray[np.int64]] | None = None
    power = np.exp2(2 / OCTAVE * levels)
    common = np.full(levels.size, round(OCTAVE / 2 * math.log2(float(power.mean()))), np.int64)
    for shift, values in [(0, common)] + [
        (shift, np.rint(levels / (1 << shift)).astype(np.int64)) for shift in range(_MAX_SHIFT + 1)
    ]:
        error = levels - (values << shift)
        bits = intvector.cost_bits(values) + weights_per_line * float(_misfit(error).sum())
        if best is None or bits < best[0]:
            best = bits, shift, values
    assert best is not None
    _, shift, values = best
    return shift, values.astype(np.int32), float((levels - (values << shift)).mean())
