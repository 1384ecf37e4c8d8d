"""The last step: the partial sums of all chunks become the statistics of some weights, and one object that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core.matrices import Layout
from nwc_core.store import Store
from nwc_workflows.calibration.partials import MatrixSums, Partial
from nwc_workflows.calibration.record import FLOAT_NBYTES, Unreached, WeightRecord
from nwc_workflows.calibration.shrink import UNSEEN_ITEMS, Scatter, smooth_rows
from nwc_workflows.calibration.triangles import diagonal_places, triangle_size
from nwc_workflows.calibration.writing import Arrays, store_arrays

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weight:
    """A weight to finish.

    Attributes:
        name, shape, layout: of the tensor.
        partials: keys of the partial sums that it is in, one per chunk, in the order of the data.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    partials: tuple[str, ...]

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        return self.layout.matrix_shape(self.shape)

    @property
    def nbytes(self) -> int:
        """Of its statistics, as they are stored."""
        k, m, n = self.matrix_shape
        return FLOAT_NBYTES * k * (triangle_size(n) + m)


@dataclass(frozen=True)
class Finished:
    """What became of some weights: records of those that were reached, and the sizes of the objects that hold them."""

    weights: list[WeightRecord]
    unreached: list[Unreached]
    objects: dict[str, int]


def finish_families(
    families: Sequence[Sequence[Weight]], predictions: int, *, store: Store, input_only: bool
) -> Finished:
    """Add up, shrink and store.

    Args:
        families: weights; together are those whose matrices are one stack of experts.
        predictions: over which the losses of all items are averaged.
        store: holds the partial sums, and takes the object.
        input_only: the sums are of inputs.
    """
    found: list[tuple[Weight, list[_Matrix]]] = []
    unreached: list[Unreached] = []
    for family in families:
        matrices = _Family(family, store).statistics(predictions, input_only)
        if matrices is None:
            unreached += [Unreached(name=weight.name, reason="no item reached it") for weight in family]
            continue
        start = 0
        for weight in family:
            stop = start + weight.matrix_shape[0]
            found.append((weight, matrices[start:stop]))
            start = stop
    arrays: Arrays = {}
    for weight, matrices in found:
        for kind in ("hessian", "rows"):
            parts = [part for matrix in matrices if (part := getattr(matrix, kind)) is not None]
            if parts:
                arrays[weight.name, kind] = [part.astype("<f4", copy=False) for part in parts]
    objects, refs = store_arrays(store, arrays)
    records = [
        WeightRecord(
            name=weight.name,
            shape=list(weight.shape),
            order=list(weight.layout.order),
            batch_axes=weight.layout.batch,
            row_axes=weight.layout.rows,
            kernel_axes=weight.layout.kernel,
            positions=[matrix.positions for matrix in matrices],
            shrinkage=[matrix.shrinkage for matrix in matrices],
            row_shrinkage=[matrix.row_shrinkage for matrix in matrices],
            condition=[matrix.condition for matrix in matrices],
            energy=[matrix.energy for matrix in matrices],
            hessian=refs.get((weight.name, "hessian")),
            rows=refs.get((weight.name, "rows")),
        )
        for weight, matrices in found
    ]
    return Finished(records, unreached, objects)


@dataclass(frozen=True)
class _Matrix:
    """Statistics of one matrix, see `WeightRecord`: hessian packed, rows [m]."""

    hessian: npt.NDArray[np.float32] | None
    rows: Floats | None
    positions: int
    shrinkage: float
    row_shrinkage: float
    energy: float

    @property
    def condition(self) -> float | None:
        if self.hessian is None:
            return None
        n = int((2 * len(self.hessian)) ** 0.5)
        diagonal = self.hessian[diagonal_places(n)]
        return float(diagonal.max()) / float(diagonal.min()) if diagonal.min() > 0 else None


@dataclass(frozen=True)
class _Small:
    """What is added up about one matrix besides its Hessian."""

    energies: Floats
    counts: npt.NDArray[np.int64]
    positions: int


class _Family:
    """Matrices of the same form that are shrunk toward each other; a family of one is not."""

    def __init__(self, weights: Sequence[Weight], store: Store) -> None:
        _, self.m, self.n = weights[0].matrix_shape
        self.units = [(weight, number) for weight in weights for number in range(weight.matrix_shape[0])]
        self.chunks = range(len(weights[0].partials))
        self._opened = {key: Partial.open(store, key) for weight in weights for key in weight.partials}

    def statistics(self, predictions: int, input_only: bool) -> list[_Matrix] | None:
        """Of every unit; None if no item reached any. One matrix in float64 is in memory at a time, and its like."""
        prior = self._mean() if len(self.units) > 1 else None
        hessians, shares, small, reached = [], [], [], False
        for unit in range(len(self.units)):
            scatter = Scatter(self.n)
            small.append(self._add(unit, scatter))
            reached |= scatter.chunks > 0
            hessian, share = scatter.shrunk(prior)
            hessians.append(hessian.astype(np.float32))
            shares.append(share)
        if input_only and not reached:
            return _frequencies(small)
        if input_only:
            return [
                _Matrix(hessian, None, of.positions, share, 0.0, 0.0)
                for hessian, share, of in zip(hessians, shares, small, strict=True)
            ]
        if not reached:
            return None
        rows = smooth_rows([of.energies for of in small], [of.counts for of in small])
        scale = 1 / predictions  # the sum over rows, times the trace n, is the energy of one prediction
        return [
            _Matrix(hessian, energy * scale / self.n, of.positions, share, row_share, float(energy.sum()) * scale)
            for hessian, share, of, energy, row_share in zip(
                hessians, shares, small, rows.energies, rows.shares, strict=True
            )
        ]

    def _mean(self) -> Floats:
        """The mean Hessian of the stack, packed."""
        scatter = Scatter(self.n)
        for chunk in self.chunks:
            total = np.zeros(triangle_size(self.n))
            for unit in range(len(self.units)):
                total += self._read(unit, chunk).hessian
            scatter.add(total)
        return scatter.shrunk()[0]

    def _add(self, unit: int, scatter: Scatter) -> _Small:
        energies, counts, positions = np.zeros(self.m), np.zeros(self.m, np.int64), 0
        for chunk in self.chunks:
            sums = self._read(unit, chunk)
            scatter.add(sums.hessian)
            energies += sums.rows
            counts += sums.counts
            positions += sums.positions
        return _Small(energies, counts, positions)

    def _read(self, unit: int, chunk: int) -> MatrixSums:
        weight, number = self.units[unit]
        return self._opened[weight.partials[chunk]].read(weight.name, number, self.m, self.n)


def _frequencies(small: Sequence[_Small]) -> list[_Matrix] | None:
    """Of tables that are only looked up; None if they never were."""
    if not any(of.counts.any() for of in small):
        return None
    counts = [of.counts + UNSEEN_ITEMS for of in small]
    return [
        _Matrix(None, count / count.sum(), of.positions, 0.0, 0.0, 0.0) for count, of in zip(counts, small, strict=True)
    ]
