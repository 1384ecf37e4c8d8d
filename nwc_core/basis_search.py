"""Which basis a matrix deserves: the directions that save more bits than they cost, and how finely to code them.

With rows x of N, direction v of variance l, in units of the mean variance of what is left, saves bits in every row by
taking its energy out of all other coordinates. Its reflection costs `size` entries. An entry rounded to a step of
s / sqrt(size) costs log2(4.13 / s) bits (a Gaussian of deviation 1 / sqrt(size)) and lets s^2 / 12 of the direction's
energy leak into the other coordinates, which costs N l s^2 / (24 ln 2) bits; the sum is least at s^2 = 12 size / (N l).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.basis import Basis
from nwc_core.blas import one_thread

_MIN_ROWS, _ROWS_PER_SIZE = 2048, 2  # directions are estimated from a sample of so many rows
_SMALL = 64  # up to this size all directions at once cost little
_FIRST_RANK = 4  # of the search in larger ones; four times as many each time that all of them pay
_EXTRA = 4  # directions more than wanted converge sooner
_ITERATIONS = 3
_MIN_STEP, _MAX_STEP = 1 / 32, 1.5
_ENTRY_BITS = np.log2(np.sqrt(2 * np.pi * np.e))
_DIRECTION_BITS = 40  # its level, its entry near 1 (an escape)
_WORTH = 0.001  # bits per weight from which the trouble is taken


def find_basis(rows: npt.NDArray[np.float32], axis: int, lines: int, bits: float, most: int) -> Basis | None:
    """The basis that pays most for `lines` rows like these, or None if none does.

    Args:
        rows: [N, size], of comparable scale.
        axis: of the basis, see `nwc_core.basis`.
        lines: how many rows the matrix has, in all of which a direction saves bits.
        most: the largest rank.
        bits: rate to be coded at: variances below the distortion to be expected count as much as that.
    """
    size = rows.shape[1]
    with one_thread():
        variance = np.einsum("ij,ij->j", rows, rows).astype(np.float64) / rows.shape[0]
        floor = variance.mean() * 4.0**-bits
        if floor == 0:
            return None
        rank = min(most, size - 1 if size <= _SMALL else _FIRST_RANK)
        while True:
            energy, vectors = _directions(rows, rank)
            count, steps = _worth(variance, energy, vectors, lines, floor)
            if count < rank or rank == most:
                break
            rank = min(4 * rank, most)
        return Basis(axis, _reflections(vectors[:, :count], steps[:count])) if count else None


def sample_of(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Indices of the rows that `find_basis` needs to see of [N, size]."""
    count, size = rows.shape
    return np.linspace(0, count - 1, min(count, max(_MIN_ROWS, _ROWS_PER_SIZE * size))).round().astype(np.int64)


def _directions(x: npt.NDArray[np.float32], rank: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(energies [rank] descending, directions [size, rank]) of largest variance in rows x."""
    size = x.shape[1]
    if size <= _SMALL:
        energy, vectors = np.linalg.eigh((x.T @ x).astype(np.float64) / x.shape[0])
        return energy[::-1][:rank], vectors[:, ::-1][:, :rank]
    block = np.random.default_rng(0).standard_normal((size, min(size, rank + _EXTRA))).astype(np.float32)
    for _ in range(_ITERATIONS):
        block = np.linalg.qr(x.T @ (x @ block))[0]
    _, values, rotation = np.linalg.svd(x @ block, full_matrices=False)
    energy = np.square(values[:rank].astype(np.float64)) / x.shape[0]
    return energy, block.astype(np.float64) @ rotation[:rank].T.astype(np.float64)


def _worth(
    variance: npt.NDArray[np.float64],
    energy: npt.NDArray[np.float64],
    vectors: npt.NDArray[np.float64],
    lines: int,
    floor: float,
) -> tuple[int, npt.NDArray[np.float64]]:
    """(how many directions to take, the step of each in units of 1 / sqrt(size))."""
    size, rank = vectors.shape
    count = np.arange(1, rank + 1)
    before = 0.5 * np.log2(np.maximum(variance, floor)).sum()
    # size - count coordinates are left to share what the directions leave over.
    rest = variance[:, None] - np.cumsum(energy * np.square(vectors), axis=1)  # [size, rank]
    rest = np.maximum(rest * (size / (size - count)), floor)
    energy = np.maximum(energy, floor)
    after = (1 - count / size) * 0.5 * np.log2(rest).sum(0) + np.cumsum(0.5 * np.log2(energy))
    relative = energy / rest.mean(0)
    steps = np.clip(np.sqrt(12 * size / (lines * relative)), _MIN_STEP, _MAX_STEP)
    entries = (size - np.arange(rank)) * np.maximum(_ENTRY_BITS - np.log2(steps), 0.5)
    leak = lines * relative * np.square(steps) / (24 * np.log(2))
    net = lines * (before - after) - np.cumsum(entries + leak + _DIRECTION_BITS)
    best = int(net.argmax())
    return (best + 1 if net[best] > _WORTH * lines * size else 0), steps


def _reflections(vectors: npt.NDArray[np.float64], steps: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """[size, r] integers: reflections whose product turns coordinate j into direction j, as far as rounding allows."""
    size, rank = vectors.shape
    left = vectors.copy()  # the directions, as the reflections so far see them
    out = np.zeros((size, rank))
    for j in range(rank):
        x = left[:, j].copy()
        x[:j] = 0  # what rounding left in coordinates that are taken
        length = float(np.sqrt(np.square(x).sum()))
        u = x / length if length > 1e-6 else x
        u[j] += 1.0 if u[j] >= 0 else -1.0
        u = np.rint(u * (np.sqrt(size) / steps[j]))
        out[:, j] = u
        left -= np.outer(u, (2 / np.square(u).sum()) * (u @ left))
    return out.astype(np.int32)
