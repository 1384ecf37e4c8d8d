"""A matrix ready to be quantised: everything that stays the same while its step is searched for.

Coefficients are held in units of their axes' own steps, so what is left to choose is one step for all. Where all errors
count alike, rows are searched in one long scan; where they are weighed, column by column with feedback.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core import steps
from nwc_core.basis import COLUMNS
from nwc_core.code_length import code_length
from nwc_core.column_tiles import from_tiles, to_tiles
from nwc_core.decorrelate import Coefficients, Parts
from nwc_core.feedback import search_columns
from nwc_core.importance import DISTORTION, Importance, exponents, factorise
from nwc_core.matrix_stream import MatrixHeader, Transforms
from nwc_core.prior import OCTAVE, Prior
from nwc_core.rans import MAX_LANES
from nwc_core.scales import Spread, levels_of
from nwc_core.synthesis import MAX_STEP_RANGE
from nwc_core.threads import map_threads
from nwc_core.transform import analyse
from nwc_core.trellis import search
from nwc_core.wire import ByteWriter

# Restarting costs a state of 32 bits in every lane: 0.001 bit per weight at this length.
_SEGMENT_WEIGHTS = 1 << 20
_LANE_WEIGHTS = 1 << 13  # a lane's state costs 0.004 bit per weight at this length


@dataclass(frozen=True)
class Quantised:
    """A matrix's points, not coded yet.

    Attributes:
        header: of the stream.
        points: of every segment, in the order of the scan.
        rate: bits per weight of the stream.
    """

    header: MatrixHeader
    points: list[npt.NDArray[np.int32]]
    rate: float

    def matrix(self) -> npt.NDArray[np.int32]:
        """[m, n] points."""
        m, n, lanes = self.header.m, self.header.n, self.header.lanes
        if not self.header.by_columns:
            return np.concatenate(self.points).reshape(m, n)
        return np.concatenate([from_tiles(points, m, lanes) for points in self.points]).T


@dataclass(frozen=True, eq=False)
class Problem:
    """See above.

    Attributes:
        coefficients: values and spread in units of the axes' own steps.
        row_exponent: [m] and
        column_exponent: [n] of these units, in eighths of an octave.
        upper: [n, n] feedback from column to column, see `nwc_core.feedback`; None for none.
        log2_weight: log2 of the weight of a weight's error times the square of its unit, on average: the same for all but
            for the rounding and the range of the exponents.
        n_states: of the trellis.
        threads: to search segments on; with feedback there is one search.
    """

    coefficients: Coefficients
    row_exponent: npt.NDArray[np.int32]
    column_exponent: npt.NDArray[np.int32]
    upper: npt.NDArray[np.float32] | None
    log2_weight: float
    n_states: int
    threads: int

    @property
    def prior(self) -> Prior:
        return self.coefficients.prior

    @cached_property
    def side_bits(self) -> float:
        """Bits per weight of the header, which hardly depend on the step."""
        out = ByteWriter()
        self._header(0, 1.0).write(out, self.prior)
        return 8 * len(out) / self.coefficients.size

    @property
    def state_bits(self) -> float:
        """Bits per weight that the entropy coder's states take."""
        size = self.coefficients.size
        return 32 * _lanes(min(size, _SEGMENT_WEIGHTS)) / min(size, _SEGMENT_WEIGHTS)

    def model_rate(self, tables: int, step: float) -> float:
        """Bits per weight that the prior expects, side information included."""
        return self.coefficients.entropy(tables, step) + self.side_bits

    def sampled(
        self, tables: int, step: float, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """(points, levels), flat, of some rows, as if these were the matrix."""
        header, shape = self._header(tables, step), self.prior.tables[tables]
        row_level, column_level = header.level_axes
        level = levels_of(row_level[rows], column_level)
        u = self._in_steps(rows, header)
        if self.upper is None:
            flat = level.reshape(-1)
            return search(u.reshape(-1), flat, _lanes(u.size), self.n_states, shape), flat
        points = search_columns(u, row_level[rows], column_level, self.n_states, shape, self.upper)
        return points.reshape(-1), level.T.reshape(-1)

    def quantise(self, tables: int, step: float, *, nearest: bool = False) -> Quantised:
        """All points at one step, with the tables of one shape.

        Args:
            tables, step: see there.
            nearest: round, whatever that takes: with one state and without feedback only.
        """
        header = self._header(tables, step)
        spans, shape = header.segments(), self.prior.tables[tables]
        columns = None if self.upper is None else self._by_columns(header, self.upper)

        def quantise(index: int) -> tuple[npt.NDArray[np.int32], float]:
            first, last = spans[index]
            level = header.levels(first, last)
            if columns is None:
                u = self._in_steps(slice(first, last), header)
                points = _rounded(u) if nearest else search(u.reshape(-1), level, header.lanes, header.n_states, shape)
            else:
                points = to_tiles(columns[first:last], header.lanes)
            return points, code_length(points, level, shape)

        found = map_threads(quantise, range(len(spans)), self.threads)
        out = ByteWriter()
        header.write(out, self.prior)
        bits = sum(_segment_bits(length, header.lanes) for _, length in found) + 8 * len(out)
        return Quantised(header, [points for points, _ in found], bits / self.coefficients.size)

    def _by_columns(self, header: MatrixHeader, upper: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        u, shape = self._in_steps(slice(None), header), self.prior.tables[header.shape]
        return search_columns(u, *header.level_axes, header.n_states, shape, upper)

    def _in_steps(self, rows: slice | npt.NDArray[np.int64], header: MatrixHeader) -> npt.NDArray[np.float32]:
        """Coefficients of some rows in units of their steps."""
        scaled: npt.NDArray[np.float32] = self.coefficients.values[rows] * (np.float32(1) / header.step)
        return scaled

    def _header(self, tables: int, step: float) -> MatrixHeader:
        m, n = self.coefficients.values.shape
        step32, by_columns = np.float32(step), self.upper is not None
        outer, inner = (n, m) if by_columns else (m, n)
        lines = max(1, min(outer, _SEGMENT_WEIGHTS // inner))
        lanes = _lanes(lines * inner)
        header = MatrixHeader(
            m=m,
            n=n,
            shape=tables,
            n_states=self.n_states,
            transform=self.coefficients.transform,
            bases=self.coefficients.bases,
            by_columns=by_columns,
            lanes=min(lanes, lines) if by_columns else lanes,
            step=step32,
            row_exponent=self.row_exponent,
            column_exponent=self.column_exponent,
            absolute=(False, False),
            scales=self.coefficients.spread.scales(np.full(m, math.log2(step32)), np.zeros(n)),
            lines=lines,
        )
        return min(self._with_absolute_scales(header), key=lambda given: _scales_nbytes(given, self.prior))

    def _with_absolute_scales(self, header: MatrixHeader) -> list[MatrixHeader]:
        """The header, and what it is with scales that steps are taken off from: often the simpler of the two."""
        spread, log2_step = self.coefficients.spread, math.log2(header.step)
        found = [header]
        ways = [(False, True) if exponent.any() else (False,) for exponent in (self.row_exponent, self.column_exponent)]
        for rows, columns in itertools.product(*ways):
            if rows or columns:
                real = Spread(spread.rows + rows * self.row_exponent, spread.columns + columns * self.column_exponent)
                scales = real.scales(np.full(header.m, log2_step), np.zeros(header.n))
                found.append(replace(header, absolute=(rows, columns), scales=scales))
        return found


def _rounded(u: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """The nearest points, flat: those of a single state are even."""
    points: npt.NDArray[np.int32] = 2 * np.rint(u.reshape(-1) / np.float32(2)).astype(np.int32)
    return points


def plain_problem(coefficients: Coefficients, n_states: int, threads: int, *, row_steps: bool = False) -> Problem:
    """All errors count alike; with `row_steps`, rows are normalised all the same."""
    m, n = coefficients.values.shape
    rows = coefficients.spread.rows
    exponent = np.zeros(m, np.int32)
    if row_steps:
        reach = MAX_STEP_RANGE // 2
        exponent = np.clip(np.rint(rows - rows.mean()), -reach, reach).astype(np.int32)
        values = coefficients.values / steps.power(exponent)[:, None]
        spread = Spread(rows - exponent, coefficients.spread.columns)
        coefficients = replace(coefficients, values=values, spread=spread)
    return Problem(coefficients, exponent, np.zeros(n, np.int32), None, 0.0, n_states, threads)


def problem_of(
    coefficients: Coefficients,
    transforms: Transforms,
    importance: Importance | None,
    bits: float,
    parts: Parts,
    n_states: int,
    threads: int,
) -> Problem:
    """Errors count as `importance`, of the matrix before it was decorrelated, says; all alike if None."""
    if importance is None:
        return plain_problem(coefficients, n_states, threads, row_steps=parts.row_steps)
    return _weighted_problem(coefficients, transforms, importance, bits, parts, n_states, threads)


def _weighted_problem(
    coefficients: Coefficients,
    transforms: Transforms,
    importance: Importance,
    bits: float,
    parts: Parts,
    n_states: int,
    threads: int,
) -> Problem:
    m, n = coefficients.values.shape
    if coefficients.transform:
        matrix = transforms[coefficients.transform - 1]
        importance = importance.of_columns(lambda values: analyse(values, matrix))
    for basis in coefficients.bases:
        importance = (importance.of_columns if basis.axis == COLUMNS else importance.of_rows)(basis.analyse)
    factor = None if importance.hessian is None else factorise(importance.hessian, bits)
    row_weight = np.ones(m) if importance.rows is None else importance.rows.astype(np.float64)
    column_weight = np.ones(n) if factor is None else factor.weights
    row_exponent, column_exponent = np.zeros(m, np.int32), np.zeros(n, np.int32)
    if parts.weighted_steps:
        row_exponent, column_exponent = exponents(row_weight), exponents(column_weight)
    log2_weight = sum(
        math.log2(float((weight * np.exp2(2 / OCTAVE * exponent)).mean()))
        for weight, exponent in ((row_weight, row_exponent), (column_weight, column_exponent))
    )
    row_unit, column_unit = steps.power(row_exponent), steps.power(column_exponent)
    values = coefficients.values / row_unit[:, None] / column_unit[None, :]
    given = replace(coefficients, values=values, spread=parts.measure(values))
    upper = None
    if factor is not None:
        upper = (np.triu(factor.upper, 1) * (column_unit[:, None] / column_unit[None, :])).astype(np.float32)
        for _ in range(2):  # what is fed back is added to the values, and is in proportion to the step
            step = given.step_for(0, bits - given.side_bits)
            given = replace(given, spread=parts.measure(values, DISTORTION * step**2 * factor.fed))
    return Problem(given, row_exponent, column_exponent, upper, log2_weight, n_states, threads)


def _scales_nbytes(header: MatrixHeader, prior: Prior) -> int:
    out = ByteWriter()
    header.scales.write(out, prior)
    return len(out)


def _lanes(weights: int) -> int:
    return int(np.clip(weights // _LANE_WEIGHTS, 1, MAX_LANES))


def _segment_bits(code_length: float, lanes: int) -> float:
    """Bits of a segment whose points take `code_length`: with its states, and its numbers of words and escapes."""
    words = max(1, int(code_length) // 16)
    return code_length + 32 * lanes + 8 * (-(-words.bit_length() // 7) + 1)
