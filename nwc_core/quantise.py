"""Encoding one matrix [m, n] at a wanted rate: decorrelation, scales, step, shape of the prior, then the trellis search.

The rate is controlled by the step alone. A model of the rate (the prior's own entropy over the matrix's levels) gives a
first step; a pilot on a sample of lines corrects the model and picks the shape; the full search follows, and is
repeated only if the bits that its points take miss the target. Entropy coding comes once, at the end.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from nwc_core import steps
from nwc_core.decorrelate import Coefficients, Parts, decorrelate
from nwc_core.exact import Inexact
from nwc_core.importance import Importance
from nwc_core.matrix_stream import MatrixStream, Transforms
from nwc_core.prior import LEVEL_ZERO, LEVELS, OCTAVE, RATE_SPAN, Prior, raw_bits
from nwc_core.problem import Problem, Quantised, plain_problem, problem_of
from nwc_core.rans import Segment, encode_segment
from nwc_core.scales import Spread
from nwc_core.threads import map_threads
from nwc_core.trellis import transitions

# A pilot's rate is off by about 0.8 bit over the square root of its size: a large matrix is worth a large pilot, since
# missing the target costs a second search of all of it.
_PILOT_SHARE, _MIN_PILOT, _MAX_PILOT = 1 / 16, 1 << 16, 1 << 18
_PILOTS, _NEAR = 2, 0.05  # one is enough if it moved the step by less than this, in octaves
_TOLERANCE = 0.004  # bits per weight
_ATTEMPTS = 8
_ANY_BITS = 4.0  # a rate that nothing depends on where there is no basis to decide about
_MAX_POINT = 1 << 22  # of an unquantised weight in steps; beyond, float32 could not hold the point exactly


class Unsuitable(Exception):  # noqa: N818  not an error: the caller codes the tensor losslessly instead
    """The matrix is outside of what the lossy format can hold."""


def encode_matrix(
    weight: npt.NDArray[np.float32],
    bits: float,
    *,
    n_states: int,
    taps: int,
    prior: Prior,
    transforms: Transforms,
    threads: int = 1,
    parts: Parts | None = None,
    importance: Importance | None = None,
) -> tuple[MatrixStream, npt.NDArray[np.float32]]:
    """Code a matrix at `bits` per weight, all bytes of the stream counted.

    Args:
        weight: [m, n], finite.
        bits: wanted rate; met within 0.004 bit where the rate can be had at all.
        n_states: of the trellis.
        taps: columns that belong together (a convolution kernel's), 1 if none: transforms of this size are tried.
        prior: tables.
        transforms: the codec's.
        threads: segments are searched side by side; the result does not depend on it.
        parts: of the codec that are at work, all if None.
        importance: of errors; None if all count alike.

    Returns:
        The stream, and the weights [m, n] that it decodes to.

    Raises:
        Unsuitable: a step or a point would leave the range of the format.
    """
    parts = parts or Parts()
    largest = max(float(weight.max()), -float(weight.min()))
    if largest == 0:  # such as an expert that was pruned away: the lowest level, whatever the step
        flat = Spread(np.zeros(weight.shape[0]), np.zeros(weight.shape[1]))
        zero = plain_problem(Coefficients(weight, flat, 0, (), prior), 1, threads)
        return _coded(zero.quantise(0, 2.0 ** (LEVEL_ZERO / OCTAVE)), prior, transforms, threads)
    # Beyond, no step could reach the peak, and a transform's sums might leave float32.
    if not steps.MIN_STEP < largest < steps.MAX_STEP * _MAX_POINT:
        raise Unsuitable
    # A single weight as large as all others together, at a high rate, leaves the exact sums: then without mixing.
    for given in (parts, replace(parts, bases=False), replace(parts, bases=False, transforms=False)):
        coefficients = decorrelate(weight, bits, taps, prior, transforms, given)
        problem = problem_of(coefficients, transforms, importance, bits, parts, n_states, threads)
        try:
            return _coded(_at_rate(problem, bits), prior, transforms, threads)
        except Inexact:
            continue
    raise AssertionError("without transform and bases there are no sums")


def encode_nearest(
    weight: npt.NDArray[np.float32], max_error: float, *, prior: Prior, transforms: Transforms, threads: int = 1
) -> tuple[MatrixStream, npt.NDArray[np.float32]]:
    """Code a matrix by rounding: no weight is off by more than `max_error`, but for the rounding of float32.

    Args:
        weight: [m, n], finite.
        max_error: above 0.
        prior, transforms, threads: as for `encode_matrix`.

    Raises:
        Unsuitable: a step or a point would leave the range of the format.
    """
    largest = max(float(weight.max()), -float(weight.min()))
    if not (steps.MIN_STEP < max_error < steps.MAX_STEP and largest < steps.MAX_STEP * _MAX_POINT):
        raise Unsuitable
    if largest <= max_error:  # all points are 0
        weight = np.zeros_like(weight)
        spread = Spread(np.zeros(weight.shape[0]), np.zeros(weight.shape[1]))
        coefficients = Coefficients(weight, spread, 0, (), prior)
    else:
        coefficients = decorrelate(weight, _ANY_BITS, 1, prior, transforms, Parts(bases=False, transforms=False))
    if coefficients.peak / max_error > _MAX_POINT:
        raise Unsuitable
    problem = plain_problem(coefficients, 1, threads)
    found = [problem.quantise(shape, max_error, nearest=True) for shape in range(len(prior.tables))]
    return _coded(min(found, key=lambda quantised: quantised.rate), prior, transforms, threads)


def _at_rate(problem: Problem, bits: float) -> Quantised:
    """The points at the step that gives `bits` per weight, or as near as a few attempts come."""
    tables = 0
    step = _solve(problem, tables, bits, 0.0)
    for _ in range(_PILOTS):
        tables, correction = _pilot(problem, tables, step)
        before, step = step, _solve(problem, tables, bits, correction)
        if abs(math.log2(step / before)) < _NEAR:
            break
    tried: list[tuple[float, Quantised]] = []
    for _ in range(_ATTEMPTS):
        found = problem.quantise(tables, step)
        tried.append((step, found))
        if abs(found.rate - bits) <= _TOLERANCE:
            break
        between = _between(tried, bits)
        if between is None:
            correction = found.rate - problem.model_rate(tables, step)
            try:
                step = _solve(problem, tables, bits, correction)
            except Unsuitable:  # mostly zeros: even the finest step that the format holds takes fewer bits
                break
        else:
            step = between
    return min((found for _, found in tried), key=lambda found: abs(found.rate - bits))


def _between(tried: list[tuple[float, Quantised]], bits: float) -> float | None:
    """A step between the nearest two that gave more and fewer bits than wanted; None before there are two."""
    above = min(((found.rate, step) for step, found in tried if found.rate > bits), default=None)
    below = max(((found.rate, step) for step, found in tried if found.rate <= bits), default=None)
    if above is None or below is None or len(tried) < 2:
        return None
    # Rate is nearly linear in the logarithm of the step; not too near to either end, where it is not.
    share = min(max((above[0] - bits) / (above[0] - below[0]), 0.1), 0.9)
    step: float = 2.0 ** (math.log2(above[1]) + share * (math.log2(below[1]) - math.log2(above[1])))
    return step


def _solve(problem: Problem, tables: int, bits: float, correction: float) -> float:
    """The step at which the model, plus what the pilot found it to be off by, gives the wanted rate."""
    coefficients = problem.coefficients
    step = coefficients.step_for(tables, bits - correction - problem.side_bits)
    exponents = problem.row_exponent, problem.column_exponent
    least, most = (math.log2(step) + sum(int(end(axis)) for axis in exponents) / OCTAVE for end in (np.min, np.max))
    if not -steps.MAX_LOG2_STEP < least <= most < steps.MAX_LOG2_STEP or coefficients.peak / step > _MAX_POINT:
        raise Unsuitable
    return step


def _pilot(problem: Problem, tables: int, step: float) -> tuple[int, float]:
    """(best shape, measured less modelled bits per weight) on a sample of evenly spaced rows.

    `tables` weighs the rates: the points, and their number of bits, depend a little on it.
    """
    m, n = problem.coefficients.values.shape
    weights = int(np.clip(m * n * _PILOT_SHARE, _MIN_PILOT, _MAX_PILOT))
    sample = np.linspace(0, m - 1, min(m, max(1, weights // n))).round().astype(np.int64)
    points, level = problem.sampled(tables, step, sample)
    at = np.clip((points >> raw_bits(level)) + RATE_SPAN, 0, 2 * RATE_SPAN - 1)
    seen = np.bincount(level.astype(np.int64) * (2 * RATE_SPAN) + at, minlength=LEVELS * 2 * RATE_SPAN)
    # A plain sum, not @: BLAS adds in an order that depends on its number of threads, and then so would the step.
    costs = [float((seen * shape.rate.reshape(-1)).sum()) / points.size for shape in problem.prior.tables]
    best = int(np.argmin(costs))
    spread = problem.coefficients.spread
    modelled = replace(problem.coefficients, spread=Spread(spread.rows[sample], spread.columns)).entropy(best, step)
    return best, costs[best] - modelled + problem.state_bits


def _coded(
    quantised: Quantised, prior: Prior, transforms: Transforms, threads: int
) -> tuple[MatrixStream, npt.NDArray[np.float32]]:
    """The stream and the weights it decodes to. Raises Inexact if bases cannot be undone exactly."""
    header = quantised.header
    spans = header.segments()

    def encode(index: int) -> Segment:
        level, tables = header.levels(*spans[index]), prior.tables[header.shape]
        moves = transitions(header.n_states)
        return encode_segment(quantised.points[index], level, header.lanes, moves, tables, header.column)

    weights = np.empty((header.m, header.n), np.float32)
    header.synthesis(transforms).place_all(quantised.matrix(), weights, threads)
    return MatrixStream(header, map_threads(encode, range(len(spans)), threads)), weights
