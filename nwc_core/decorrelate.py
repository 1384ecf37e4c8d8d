"""Choosing what is done to a matrix before it is quantised: a learned transform of its taps, bases of its axes.

Every candidate is orthonormal, so at one step all have the same distortion, and the one that the prior expects to take
the fewest bits, side information included, wins. The identity is the first candidate: nothing that costs more is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core import transform
from nwc_core.basis import COLUMNS, ROWS, Basis, most_vectors
from nwc_core.basis_search import find_basis, sample_of
from nwc_core.matrix_stream import Transforms
from nwc_core.prior import LEVELS, OCTAVE, Prior
from nwc_core.scales import Spread
from nwc_core.wire import ByteWriter

_LARGEST_GROUP = 256  # taps for which a basis of their own is tried


@dataclass(frozen=True)
class Parts:
    """Which parts of the encoder are at work; anything but the defaults is for measuring what a part is worth.

    Attributes:
        contexts: scales of rows and columns choose the tables; otherwise one scale does for the matrix.
        transforms: learned transforms are tried.
        bases: bases of the matrix's own are tried.
        row_steps: every row is normalised, so that its step follows its scale, as in the published codec.
        weighted_steps: with importance, steps of rows and columns follow it; otherwise errors are fed back only.
    """

    contexts: bool = True
    transforms: bool = True
    bases: bool = True
    row_steps: bool = False
    weighted_steps: bool = True

    def measure(self, values: npt.NDArray[np.float32], noise: npt.NDArray[np.float64] | None = None) -> Spread:
        """The scales of coefficients [m, n], with independent noise of variance `noise` [n] added to them."""
        spread = Spread.measure(values, noise)
        if self.contexts:
            return spread
        one = 0.5 * OCTAVE * math.log2(float(np.square(values, dtype=np.float64).mean()))
        rows = spread.rows if self.row_steps else np.full(values.shape[0], one)
        return Spread(rows, np.zeros(values.shape[1]))


@dataclass(frozen=True)
class Coefficients:
    """A matrix as it will be quantised.

    Attributes:
        values: [m, n] coefficients.
        spread: their scales.
        transform: number of the codec's transform, 0 for none.
        bases: applied after it, in this order.
        prior: tables.
    """

    values: npt.NDArray[np.float32]
    spread: Spread
    transform: int
    bases: tuple[Basis, ...]
    prior: Prior

    @property
    def size(self) -> int:
        return int(self.values.size)

    @cached_property
    def peak(self) -> float:
        """The greatest magnitude."""
        return max(float(self.values.max()), -float(self.values.min()))

    @cached_property
    def side_bits(self) -> float:
        """Bits per weight of scales and bases; the former hardly depend on the step."""
        out = ByteWriter()
        m, n = self.values.shape
        self.spread.scales(np.zeros(m), np.zeros(n)).write(out, self.prior)
        for basis in self.bases:
            basis.write(out, self.prior)
        return 8 * len(out) / self.size

    @cached_property
    def _spectrum(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        levels, counts = self.spread.spectrum()
        return levels, counts / counts.sum()

    def entropy(self, tables: int, step: float) -> float:
        """Bits per weight that the prior expects for the points: its entropy over the matrix's levels."""
        levels, share = self._spectrum
        rate = np.interp(levels - OCTAVE * math.log2(step), np.arange(LEVELS), self.prior.tables[tables].mean_rate)
        return float((share * rate).sum())

    def model_rate(self, tables: int, step: float) -> float:
        """Bits per weight that the prior expects, side information included."""
        return self.entropy(tables, step) + self.side_bits

    def step_for(self, tables: int, bits: float) -> float:
        """The step at which the prior expects `bits` per weight, side information left out."""
        low, high = math.log2(self.peak) - 23, math.log2(self.peak) + 3  # log2 of the step
        for _ in range(26):
            middle = (low + high) / 2
            if self.entropy(tables, 2.0**middle) > bits:
                low = middle
            else:
                high = middle
        step: float = 2.0**high
        return step


def decorrelate(
    weight: npt.NDArray[np.float32], bits: float, taps: int, prior: Prior, transforms: Transforms, parts: Parts
) -> Coefficients:
    """The best candidate for a matrix [m, n] at about `bits` per weight; `taps` columns belong to one kernel."""
    best = Coefficients(weight, parts.measure(weight), 0, (), prior)
    step = best.step_for(0, bits - best.side_bits)

    def measured(values: npt.NDArray[np.float32], number: int, bases: tuple[Basis, ...]) -> Coefficients:
        return Coefficients(values, parts.measure(values), number, bases, prior)

    def with_basis(given: Coefficients, axis: int, size: int) -> list[Coefficients]:
        basis = _basis_for(given, axis, size, bits) if parts.bases and size > 1 else None
        return [measured(basis.analyse(given.values), given.transform, (*given.bases, basis))] if basis else []

    candidates = [best]
    if parts.transforms:
        for number, matrix in enumerate(transforms, 1):
            if matrix.shape[0] == taps > 1:
                candidates.append(measured(transform.analyse(weight, matrix), number, ()))
    if taps <= _LARGEST_GROUP:
        candidates += with_basis(best, COLUMNS, taps)
    best = _cheapest(candidates, step)
    m, n = weight.shape
    # Of the shorter axis, where a direction's cost is shared by the most lines: the longer one has been seen to win by
    # 0.02 bit at most, and one of each saves another 0.002 to 0.01.
    return _cheapest([best, *(with_basis(best, COLUMNS, n) if n <= m else with_basis(best, ROWS, m))], step)


def _cheapest(candidates: list[Coefficients], step: float) -> Coefficients:
    return min(candidates, key=lambda candidate: candidate.model_rate(0, step))


def _basis_for(given: Coefficients, axis: int, size: int, bits: float) -> Basis | None:
    """A basis for groups of `size` along the axis, if one promises to pay."""
    values, scale = given.values, given.spread.rows if axis == COLUMNS else given.spread.columns
    lines = (values if axis == COLUMNS else values.T).reshape(-1, size)
    most = most_vectors(size, given.size - 2 * sum(basis.size * basis.rank for basis in given.bases))
    chosen = sample_of(lines)
    relative = np.repeat(scale - scale.max(), lines.shape[0] // scale.size)[chosen]
    rows = lines[chosen] * np.exp2(-relative / OCTAVE).astype(np.float32)[:, None]
    peak = max(float(rows.max()), -float(rows.min()))
    if most < 1 or peak == 0:  # few lines are not zero, and none of them is in the sample
        return None
    return find_basis(rows / np.float32(peak), axis, lines.shape[0], bits, most)
