"""From quantisation points back to weights: steps, then the matrix's bases and transform, undone in exact integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core import steps, transform
from nwc_core.basis import COLUMNS, ROWS, SHIFT, Basis, Mixing
from nwc_core.dequantise import Weights, scale, scale_difference
from nwc_core.exact import LIMIT_SHORT, Integers, peak_of
from nwc_core.kernels import kernel
from nwc_core.threads import map_threads

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

    def place(self, points: npt.NDArray[np.int32], rows: slice, columns: slice, out: Weights) -> None:
        """Fill some rows and columns of `out` [m, n] from their points; all those that are mixed must be among them.

        Raises:
            Inexact: points too large for exact sums.
        """
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
        map_threads(lambda i: self.place(points[pieces[i]], *pieces[i], out), range(len(pieces)), threads)


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
