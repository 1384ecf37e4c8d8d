"""What is added up about one weight over the items, in float64: G'G and the diagonal of G G' of its gradients G.

With G [m, n] the gradient of one item's number with respect to one matrix, E[G'G] is the item's Fisher matrix summed
over the outputs (the Hessian), and the diagonal of E[G G'] the same summed over the inputs (the row weights). Both are
exact: G is the sum over all positions and uses, so what these do together is in it.
"""

from __future__ import annotations

import numpy as np
import torch

from nwc_workflows.calibration.placement import Numbers

# G'G of more rows than this is estimated from so many sums of rows with random signs: its expectation is the same, and
# the noise is far below that between items, whose gradients have few directions. It bounds the cost of an item.
SKETCH_ROWS = 256
# Rows collected before their product is added: adding n x n numbers takes as long as multiplying some hundred rows.
_FLUSH_ROWS = 256
# A symmetric product is computed by bands of so many rows, from the diagonal on: of a wide one, hardly more than half.
_BLOCK = 512
_SIGNED_ROWS = 1 << 14  # rows of a large table that are copied at a time


class WeightSums:
    """Sums over items of one weight seen as matrices [k, m, n].

    Attributes:
        hessian: float64 [k, n, n], of G'G; or of X'X of inputs X [positions, n]. Only the upper triangle is meant.
        rows: float64 [k, m], of the squared lengths of the rows of G.
        counts: int64 [k, m], items in which a row's gradient was not 0; or how often a row was looked up.
        positions: int64 [k], see `WeightStatistics`.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        k, m, n = shape
        self.n = n
        self.hessian = torch.zeros((k, n, n), dtype=torch.float64)
        self.rows = torch.zeros((k, m), dtype=torch.float64)
        self.counts = torch.zeros((k, m), dtype=torch.int64)
        self.positions = torch.zeros(k, dtype=torch.int64)
        self._waiting: list[list[torch.Tensor]] = [[] for _ in range(k)]

    def add_gradient(
        self, gradient: torch.Tensor, places: tuple[Numbers, Numbers, Numbers], random: torch.Generator
    ) -> None:
        """One item's gradient float32 [k', m', n'] of the matrices, rows and columns with these numbers."""
        squares = torch.linalg.vector_norm(gradient, dim=2).double().square_()
        used = squares > 0
        block = (torch.from_numpy(places[0])[:, None], torch.from_numpy(places[1]))
        self.rows.index_put_(block, squares, accumulate=True)
        self.counts.index_put_(block, used.long(), accumulate=True)
        for number, matrix, rows in zip(places[0].tolist(), gradient, used, strict=True):
            active = rows.nonzero().flatten()
            if len(active):
                kept = matrix if len(active) == len(matrix) else matrix[active]
                self._collect(number, _sketch(kept, random), places[2])

    def add_inputs(self, number: int, inputs: torch.Tensor, columns: Numbers) -> None:
        """Inputs float32 [positions, n'] of the matrix and the columns with these numbers."""
        for part in torch.split(inputs, _SIGNED_ROWS):
            self._collect(number, part, columns)

    def finish(self) -> None:
        """Add what is waiting."""
        for number in range(len(self._waiting)):
            self._flush(number)

    def _collect(self, number: int, rows: torch.Tensor, columns: Numbers) -> None:
        placed = torch.zeros((len(rows), self.n))  # a copy in any case: a view would keep all that it is a view of
        if np.array_equal(columns, np.arange(self.n)):
            placed.copy_(rows)
        else:
            placed[:, torch.from_numpy(columns)] = rows
        self._waiting[number].append(placed)
        if sum(len(part) for part in self._waiting[number]) >= _FLUSH_ROWS:
            self._flush(number)

    def _flush(self, number: int) -> None:
        if self._waiting[number]:
            rows = torch.cat(self._waiting[number])
            self._waiting[number] = []
            for start in range(0, self.n, _BLOCK):
                stop = start + _BLOCK
                self.hessian[number, start:stop, start:] += rows[:, start:stop].T @ rows[:, start:]


def sums_nbytes(shape: tuple[int, int, int]) -> int:
    """Bytes that `WeightSums` of this shape takes, with what waits; and one band of a product with its rows beside it."""
    k, m, n = shape
    waiting = 4 * n * (_FLUSH_ROWS + min(m, SKETCH_ROWS))
    return k * (8 * n * n + 16 * m + waiting) + 4 * n * min(n, _BLOCK) + waiting


def _sketch(gradient: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """[at most SKETCH_ROWS, n] whose product with itself is expected to be that of a gradient [m, n]."""
    m, n = gradient.shape
    if m <= SKETCH_ROWS:
        return gradient
    signs = torch.randint(0, 2, (m, 1), generator=random).float().mul_(2).sub_(1)
    places = torch.randperm(m, generator=random) % SKETCH_ROWS
    sketch = torch.zeros((SKETCH_ROWS, n))
    for part in torch.split(torch.arange(m), _SIGNED_ROWS):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        sketch.index_add_(0, places[rows], gradient[rows] * signs[rows])
    return sketch
