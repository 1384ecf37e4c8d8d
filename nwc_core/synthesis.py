"""From quantisation points back to weights: steps, then the matrix's bases and transform, undone in exact integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core import steps, transform
from nwc_core.basis import COLUMNS, ROWS, SHIFT, Basis, Mixing
from nwc_core.dequantise import Weights, scale, scale_difference
from nwc_core.exact import LIMIT, LIMIT_SHORT, Integers, peak_of
from nwc_core.kernels import kernel
from nwc_core.mixing_kernels import AT_ONCE, aligned, mix_columns, mix_rows
from nwc_core.threads import map_threads
from nwc_core.vector import WIDTH

# Steps within an axis that is mixed may differ by this many eighths of an octave: 8 octaves of them, points of 22 bits,
# a basis of SHIFT bits and its sums would leave the 53 bits of an exact integer, but points so large have finer steps.
MAX_STEP_RANGE = 8 * 8
# Worked on at a time: larger arrays come fresh from the operating system, page by page, which takes longer than the sums.
PIECE_WEIGHTS = 1 << 16
_MIN_LINES = 32  # fewer at a time would spend their time reading the vectors of a basis from memory
_FRACTION = 6  # bits below the step that are kept from one stage to the next: an error of 1/64 step costs nothing


@dataclass(frozen=True)
class Synthesis:
    """What turns the points of one matrix [m, n] into weights, bit for bit the same everywhere.

    The step of a point is step * 2^(row exponent / 8) * 2^(column exponent / 8). Where nothing mixes weights, the weight is
    float32(n) * (row step * column factor), both products rounded once. Steps of an axis that a basis or the transform
    mixes multiply before, in fixed point; sums are exact integers, rounded to 2^-_FRACTION steps between stages, and
    converted once at the end.

    Attributes:
        step: of the matrix.
        row_exponent: [m] eighths of an octave by which each row's step is larger.
        column_exponent: [n] the same for columns.
        bases: in the order in which analysis applied them, after the transform.
        matrix: the transform [g, g], None for the identity.
    """

    step: np.float32
    row_exponent: npt.NDArray[np.int32]
    column_exponent: npt.NDArray[np.int32]
    bases: tuple[Basis, ...]
    matrix: npt.NDArray[np.int16] | None

    @cached_property
    def mixed(self) -> set[int]:
        """Axes along which weights are sums over several points."""
        return {basis.axis for basis in self.bases} | ({COLUMNS} if self.matrix is not None else set())

    @cached_property
    def mixings(self) -> tuple[Mixing, ...]:
        """The bases, ready to be applied."""
        return tuple(basis.mixing() for basis in self.bases)

    @cached_property
    def steps_after(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """[m] and [n] factors of whose products the weights are multiples: what is left of the steps after mixing."""
        rows, columns = (
            np.full_like(exponent, exponent.min()) if axis in self.mixed else exponent
            for axis, exponent in ((ROWS, self.row_exponent), (COLUMNS, self.column_exponent))
        )
        return self.step * steps.power(rows), steps.power(columns)

    @cached_property
    def _steps_before(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
        """[m] and [n] factors of points before they are mixed, in units of 2^-_FRACTION; None where they are all alike."""
        uneven, factors = False, []
        for axis, exponent in ((ROWS, self.row_exponent), (COLUMNS, self.column_exponent)):
            factor = np.ones(exponent.size)
            least = np.int32(exponent.min())
            if axis in self.mixed and (exponent != least).any():
                uneven, factor = True, steps.fixed_power(exponent - least) / float(1 << steps.FIXED_BITS)
            factors.append(factor)
        return (factors[0] * (1 << _FRACTION), factors[1]) if uneven else None

    def prepare(self) -> None:
        """Compute what all pieces share, before several threads would."""
        self.steps_after, self._steps_before  # noqa: B018
        for mixing in self.mixings:
            mixing.prepare()

    def place(self, points: npt.NDArray[np.int32], rows: slice, columns: slice, out: Weights, left: int = 0) -> None:
        """Fill some rows and columns of `out` [m, n] from their points; all those that are mixed must be among them.

        Args:
            points: of these rows and, from column `left` on, of these columns.
            rows, columns: of `out`.

        Raises:
            Inexact: points too large for exact sums.
        """
        (top, bottom), (first, last) = (
            (span.start, span.stop) for span in (range(out.shape[0])[rows], range(out.shape[1])[columns])
        )
        if len(self.mixings) == 1 and self.matrix is None and out.flags.c_contiguous:
            if self.mixings[0].axis == COLUMNS:
                done = self._mix_rows(points, top, out)
                points, top = points[done:], top + done
            else:
                done = self._mix_columns(points, left, slice(first, last), out)
                left, first = left + done, first + done
        if top < bottom and first < last:
            some = points[:, left : left + last - first]
            self._place(some, slice(top, bottom), slice(first, last), out)

    def _mix_rows(self, points: npt.NDArray[np.int32], top: int, out: Weights) -> int:
        """Place those rows that compiled code takes, from row `top` on; returns how many they are."""
        mixing, size = self.mixings[0], points.shape[1]
        arrays, count = mixing.for_kernels, len(points) // AT_ONCE * AT_ONCE
        if arrays is None or mixing.u.shape[0] != size or not count or not points.flags.c_contiguous:
            return 0
        fixed, row_factor, factor, shift = self._before(slice(top, top + count), slice(None))
        peak = _peak(points, row_factor, factor, fixed)
        if peak * mixing.growth >= LIMIT:
            return 0
        u, b = arrays
        vectors = mixing.short_for_kernels if mixing.is_short(peak) else u
        row_step = np.ldexp(self.steps_after[0][top : top + count], -shift)
        scratch = [aligned(np.empty(AT_ONCE * k, kind)) for k, kind in ((size, np.float64), (size, vectors.dtype))]
        scratch.append(aligned(np.empty(AT_ONCE * len(u))))
        steps_of = (vectors, b, float(1 << SHIFT), row_step, self.steps_after[1])
        mix_rows(points[:count], row_factor, factor, fixed, *steps_of, out[top : top + count], *scratch)
        return count

    def _mix_columns(self, points: npt.NDArray[np.int32], left: int, columns: slice, out: Weights) -> int:
        """The same for columns, which begin with column `left` of the points."""
        arrays = self.mixings[0].for_kernels
        count: int = (columns.stop - columns.start) // WIDTH * WIDTH
        if arrays is None or not count or not points.flags.c_contiguous:
            return 0
        columns = slice(columns.start, columns.start + count)
        fixed, row_factor, factor, shift = self._before(slice(None), columns)
        if _peak(points[:, left : left + count], row_factor, factor, fixed) * self.mixings[0].growth >= LIMIT:
            return 0
        row_step = np.ldexp(self.steps_after[0], -shift)
        size, rank = arrays[0].shape
        scratch = (aligned(np.empty(WIDTH * size)), aligned(np.empty(WIDTH * rank)))
        steps_of = (*arrays, float(1 << SHIFT), row_step, self.steps_after[1][columns])
        mix_columns(points, left, count, row_factor, factor, fixed, *steps_of, out, columns.start, *scratch)
        return count

    def _before(
        self, rows: slice, columns: slice
    ) -> tuple[bool, npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
        """For compiled code: whether points are multiplied by factors, these, and the result's binary fraction."""
        if self._steps_before is None:
            return False, np.ones(self.row_exponent[rows].size), np.ones(1), SHIFT
        return True, self._steps_before[0][rows], self._steps_before[1][columns], SHIFT + _FRACTION

    def _place(self, points: npt.NDArray[np.int32], rows: slice, columns: slice, out: Weights) -> None:
        part = out[rows, columns]
        row_step, factor = self.steps_after[0][rows], self.steps_after[1][columns]
        if not self.mixed:
            scale(points, row_step, factor, part)
            return
        values, peak, fraction = self._fixed(points, rows, columns)
        for number, mixing in enumerate(reversed(self.mixings), 1):
            turned, fraction = mixing.turned(values, peak), fraction + SHIFT
            if number == len(self.mixings) and self.matrix is None:
                scale_difference(values, float(1 << SHIFT), turned, np.ldexp(row_step, -fraction), factor, part)
                return
            values = np.rint(np.ldexp(values * float(1 << SHIFT) - turned, _FRACTION - fraction))
            peak, fraction = peak_of(values), _FRACTION
        assert self.matrix is not None
        product, fraction = transform.invert(values, self.matrix, peak), fraction + transform.SCALE_BITS
        scale(product, np.ldexp(row_step, -fraction), factor, part)

    def _fixed(self, points: npt.NDArray[np.int32], rows: slice, columns: slice) -> tuple[Integers, float, int]:
        """Points times the steps that come before mixing, as integers; what none is above; and their binary fraction."""
        peak = peak_of(points)
        if self._steps_before is None:
            return (points.astype(np.float32) if peak < LIMIT_SHORT else points.astype(np.float64)), peak, 0
        row_factor, column_factor = self._steps_before[0][rows], self._steps_before[1][columns]
        peak = peak * float(row_factor.max()) * float(column_factor.max()) + 1
        values: Integers
        values = np.empty(points.shape, np.float32) if peak < LIMIT_SHORT else np.empty(points.shape, np.float64)
        _fix(points, row_factor, column_factor, values)
        return values, peak, _FRACTION

    def place_all(self, points: npt.NDArray[np.int32], out: Weights, threads: int) -> None:
        """Fill `out` [m, n] from all points, piece by piece where an axis is not mixed. Raises as `place` does."""
        self.prepare()
        m, n = points.shape
        if ROWS not in self.mixed:
            height = piece_lines(n)
            pieces = [(slice(first, first + height), slice(None)) for first in range(0, m, height)]
        elif COLUMNS not in self.mixed:
            width = piece_lines(m)
            pieces = [(slice(None), slice(first, first + width)) for first in range(0, n, width)]
        else:
            pieces = [(slice(None), slice(None))]

        def place(index: int) -> None:
            rows, columns = pieces[index]
            self.place(points[rows], rows, columns, out, columns.start or 0)

        map_threads(place, range(len(pieces)), threads)


def _peak(
    points: npt.NDArray[np.int32], row_factor: npt.NDArray[np.float64], factor: npt.NDArray[np.float64], fixed: bool
) -> float:
    """What no integer is above that is made of points: as if the largest had the largest factor."""
    peak = peak_of(points)
    return peak * float(row_factor.max()) * float(factor.max()) + 1 if fixed else peak


@kernel
def _fix(points, row_factor, column_factor, values):  # type: ignore[no-untyped-def]
    """Points [m, n] times their factors, to the nearest integer."""
    m, n = points.shape
    for i in range(m):
        for j in range(n):
            values[i, j] = np.rint(points[i, j] * (row_factor[i] * column_factor[j]))


def piece_lines(length: int) -> int:
    """Lines of this length to work on at a time."""
    return max(_MIN_LINES, PIECE_WEIGHTS // length)
