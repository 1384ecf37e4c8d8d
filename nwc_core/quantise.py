"""Encoding one matrix [m, n] at a wanted rate: transform, scales, step, shape of the prior, then the trellis search.

The rate is controlled by the step alone. A model of the rate (the prior's own entropy over the matrix's levels) gives a
first step; a pilot on a sample of lines corrects the model and picks the shape; the full search follows, and is
repeated only if the bytes written missed the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core import steps, transform
from nwc_core.matrix_stream import MatrixHeader, MatrixStream, Transforms, map_threads
from nwc_core.prior import LEVEL_ZERO, LEVELS, OCTAVE, RATE_SPAN, Prior, raw_bits
from nwc_core.rans import MAX_LANES, Segment, encode_segment
from nwc_core.scales import Scales, Spread
from nwc_core.trellis import search, transitions
from nwc_core.wire import ByteWriter

# Restarting costs a state of 32 bits in every lane: 0.001 bit per weight at this length.
_SEGMENT_WEIGHTS = 1 << 20
_LANE_WEIGHTS = 1 << 13  # a lane's state costs 0.004 bit per weight at this length
# A pilot's rate is off by about 0.8 bit over the square root of its size: a large matrix is worth a large pilot, since
# missing the target costs a second search of all of it.
_PILOT_SHARE, _MIN_PILOT, _MAX_PILOT = 1 / 16, 1 << 16, 1 << 18
_PILOTS, _NEAR = 2, 0.05  # one is enough if it moved the step by less than this, in octaves
_TOLERANCE = 0.004  # bits per weight
_ATTEMPTS = 4
_MAX_POINT = 1 << 22  # of an unquantised weight in steps; beyond, float32 could not hold the point exactly


class Unsuitable(Exception):  # noqa: N818  not an error: the caller codes the tensor losslessly instead
    """The matrix is outside of what the lossy format can hold."""


@dataclass(frozen=True)
class _Problem:
    """What stays the same while the step is searched for."""

    coefficients: npt.NDArray[np.float32]
    spread: Spread
    transform: int
    n_states: int
    prior: Prior
    threads: int

    @property
    def size(self) -> int:
        return int(self.coefficients.size)

    def scales(self, step: float) -> Scales:
        m, n = self.coefficients.shape
        return self.spread.scales(np.full(m, math.log2(step)), np.zeros(n), self.prior)

    @cached_property
    def side_bits(self) -> float:
        """Bits per weight of the scales; they hardly depend on the step."""
        out = ByteWriter()
        self.scales(1.0).write(out, self.prior)
        return 8 * len(out) / self.size

    @cached_property
    def _spectrum(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        levels, counts = self.spread.spectrum()
        return levels, counts / self.size

    def model_rate(self, tables: int, step: float) -> float:
        """Bits per weight that the prior expects: its entropy over the matrix's levels, and the scales."""
        levels, share = self._spectrum
        rate = np.interp(levels - OCTAVE * math.log2(step), np.arange(LEVELS), self.prior.tables[tables].mean_rate)
        return float(share @ rate) + self.side_bits


def encode_matrix(
    weight: npt.NDArray[np.float32],
    bits: float,
    *,
    n_states: int,
    taps: int,
    prior: Prior,
    transforms: Transforms,
    threads: int = 1,
) -> MatrixStream:
    """Code a matrix at `bits` per weight, all bytes of the stream counted.

    Args:
        weight: [m, n], finite.
        bits: wanted rate; met within 0.004 bit where the rate can be had at all.
        n_states: of the trellis.
        taps: columns that belong together (a convolution kernel's), 1 if none: transforms of this size are tried.
        prior: tables.
        transforms: the codec's.
        threads: segments are searched side by side; the result does not depend on it.

    Raises:
        Unsuitable: a step or a point would leave the range of the format.
    """
    if not weight.any():  # such as an expert that was pruned away: the lowest level, whatever the step
        zero = _Problem(weight, Spread(np.zeros(weight.shape[0]), np.zeros(weight.shape[1])), 0, 1, prior, threads)
        return _encode_at(zero, 0, 2.0 ** (LEVEL_ZERO / OCTAVE))
    # Beyond, no step could reach the peak, and a transform's sums might leave float32.
    if not steps.MIN_STEP < np.abs(weight).max() < steps.MAX_STEP * _MAX_POINT:
        raise Unsuitable
    problem = _choose_transform(weight, n_states, taps, prior, transforms, threads)
    tables = 0
    step = _solve(problem, tables, bits, 0.0)
    for _ in range(_PILOTS):
        tables, correction = _pilot(problem, step)
        before, step = step, _solve(problem, tables, bits, correction)
        if abs(math.log2(step / before)) < _NEAR:
            break
    best: tuple[float, MatrixStream] | None = None
    for _ in range(_ATTEMPTS):
        stream = _encode_at(problem, tables, step)
        out = ByteWriter()
        stream.write(out, prior)
        rate = 8 * len(out) / problem.size
        if best is None or abs(rate - bits) < best[0]:
            best = abs(rate - bits), stream
        if best[0] <= _TOLERANCE:
            break
        correction = rate - problem.model_rate(tables, step)
        try:
            step = _solve(problem, tables, bits, correction)
        except Unsuitable:  # mostly zeros: even the finest step that the format holds takes fewer bits
            break
    assert best is not None
    return best[1]


def _choose_transform(
    weight: npt.NDArray[np.float32], n_states: int, taps: int, prior: Prior, transforms: Transforms, threads: int
) -> _Problem:
    """The candidate that the scales say needs the fewest bits at a small step; the identity unless another wins."""
    identity = _Problem(weight, Spread.measure(weight), 0, n_states, prior, threads)
    candidates = [identity]
    for number, matrix in enumerate(transforms, 1):
        if matrix.shape[0] == taps > 1:
            coefficients = transform.analyse(weight, matrix)
            candidates.append(
                replace(identity, coefficients=coefficients, spread=Spread.measure(coefficients), transform=number)
            )
    step = float(np.sqrt(np.mean(np.square(weight, dtype=np.float64)))) / 8
    return min(candidates, key=lambda candidate: candidate.model_rate(0, step))


def _solve(problem: _Problem, tables: int, bits: float, correction: float) -> float:
    """The step at which the model, plus what the pilot found it to be off by, gives the wanted rate."""
    peak = float(np.abs(problem.coefficients).max())
    low, high = math.log2(peak) - 23, math.log2(peak) + 3  # log2 of the step
    for _ in range(40):
        middle = (low + high) / 2
        if problem.model_rate(tables, 2.0**middle) + correction > bits:
            low = middle
        else:
            high = middle
    step: float = 2.0**high
    if not steps.MIN_STEP < step < steps.MAX_STEP or peak / step > _MAX_POINT:
        raise Unsuitable
    return step


def _pilot(problem: _Problem, step: float) -> tuple[int, float]:
    """(best shape, measured less modelled bits per weight) on a sample of evenly spaced rows."""
    m, n = problem.coefficients.shape
    weights = int(np.clip(m * n * _PILOT_SHARE, _MIN_PILOT, _MAX_PILOT))
    count = min(m, max(1, weights // n))
    sample = np.linspace(0, m - 1, count).round().astype(np.int64)
    scales = problem.scales(step)
    level = replace(scales, rows=scales.rows[sample]).levels(0, count, by_columns=False)
    u = (problem.coefficients[sample] * np.float32(1 / step)).reshape(-1)
    # The search needs some tables to weigh rates with; whichever, they hardly change which points it picks.
    points = search(u, level, _lanes(u.size), problem.n_states, problem.prior.tables[0])
    at = np.clip((points >> raw_bits(level)) + RATE_SPAN, 0, 2 * RATE_SPAN - 1)
    seen = np.bincount(level.astype(np.int64) * (2 * RATE_SPAN) + at, minlength=LEVELS * 2 * RATE_SPAN)
    # A plain sum, not @: BLAS adds in an order that depends on its number of threads, and then so would the step.
    costs = [float((seen * tables.rate.reshape(-1)).sum()) / u.size for tables in problem.prior.tables]
    best = int(np.argmin(costs))
    modelled = np.bincount(level, minlength=LEVELS) @ problem.prior.tables[best].mean_rate / u.size
    states = 32 * _lanes(problem.size) / min(problem.size, _SEGMENT_WEIGHTS)
    return best, costs[best] - float(modelled) + states


def _lanes(weights: int) -> int:
    return int(np.clip(weights // _LANE_WEIGHTS, 1, MAX_LANES))


def _encode_at(problem: _Problem, tables: int, step: float) -> MatrixStream:
    m, n = problem.coefficients.shape
    step32 = np.float32(step)
    header = MatrixHeader(
        m=m,
        n=n,
        shape=tables,
        n_states=problem.n_states,
        transform=problem.transform,
        by_columns=False,
        lanes=_lanes(min(problem.size, _SEGMENT_WEIGHTS)),
        step=step32,
        row_exponent=np.zeros(m, np.int32),
        column_exponent=np.zeros(n, np.int32),
        scales=problem.scales(float(step32)),
        lines=max(1, min(m, _SEGMENT_WEIGHTS // n)),
    )
    spans = header.segments()
    shape = problem.prior.tables[tables]
    inverse = np.float32(1) / step32

    def encode(index: int) -> Segment:
        first, last = spans[index]
        level = header.scales.levels(first, last, by_columns=False)
        u = (problem.coefficients[first:last] * inverse).reshape(-1)
        points = search(u, level, header.lanes, header.n_states, shape)
        return encode_segment(points, level, header.lanes, transitions(header.n_states), shape)

    return MatrixStream(header, map_threads(encode, range(len(spans)), problem.threads))
