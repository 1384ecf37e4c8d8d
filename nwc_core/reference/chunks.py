"""A matrix [m, n] as chunks of unit variance: what the autoencoder is trained on and what it codes.

Every row is divided by its root mean square (the mean is not subtracted: it is a few thousandths of it in real weights),
rounded to an eighth of an octave. A chunk is CHUNK neighbours of one column; rows are filled up with zeros to a multiple
of CHUNK. Chunks lie in bands of CHUNK rows, column after column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core import steps
from nwc_core.quantise import Unsuitable
from nwc_core.reference.recipe import CHUNK

_OCTAVE = 8
# Rows below 2^-24 of the largest count as that: they decode to less than anyone can see beside it.
MIN_EXPONENT = -24 * _OCTAVE


def row_scales(matrix: npt.NDArray[np.float32]) -> tuple[np.float32, npt.NDArray[np.int32]]:
    """(largest root mean square of a row, [m] exponents): row i has about 2^(exponent[i] / 8) of the largest.

    The largest is 0 if and only if all weights are.
    """
    # einsum adds in a fixed order; in float64, where squares of any float32 fit.
    rms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64) / matrix.shape[1])
    largest = np.float32(rms.max())
    if not largest:
        return largest, np.zeros(rms.size, np.int32)
    ratio = np.maximum(rms / float(largest), 2.0 ** (MIN_EXPONENT / _OCTAVE))
    return largest, np.minimum(np.rint(_OCTAVE * np.log2(ratio)), 0).astype(np.int32)


def chunk_count(m: int, n: int) -> int:
    return -(-m // CHUNK) * n


def to_chunks(
    matrix: npt.NDArray[np.float32], scale: np.float32, exponents: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """[chunk_count(m, n), CHUNK] of the matrix with row i divided by scale * 2^(exponents[i] / 8)."""
    m, n = matrix.shape
    padded = np.zeros((-(-m // CHUNK) * CHUNK, n), np.float32)
    np.divide(matrix, (scale * steps.power(exponents))[:, None], out=padded[:m])
    return np.ascontiguousarray(padded.reshape(-1, CHUNK, n).transpose(0, 2, 1)).reshape(-1, CHUNK)


def from_chunks(
    chunks: npt.NDArray[np.float32], m: int, scale: npt.NDArray[np.float32], exponents: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """The inverse, with a scale for every column, [n]: [m, n], every weight multiplied once in float32."""
    n = scale.size
    rows = chunks.reshape(-1, n, CHUNK).transpose(0, 2, 1).reshape(-1, n)[:m]
    return rows * (steps.power(exponents)[:, None] * scale)


@dataclass(frozen=True)
class Source:
    """A matrix [m, n] to code: its scales and its chunks of unit variance."""

    m: int
    n: int
    scale: np.float32
    exponents: npt.NDArray[np.int32]
    chunks: npt.NDArray[np.float32]

    @classmethod
    def of(cls, matrix: npt.NDArray[np.float32]) -> Source | None:
        """None for a matrix of zeros.

        Raises:
            Unsuitable: its scales are outside of what the format can hold.
        """
        scale, exponents = row_scales(matrix)
        if not scale:
            return None
        # Two octaves of gain, and 24 of smaller rows, must not leave the range either.
        if not 16 * steps.MIN_STEP < scale < steps.MAX_STEP / 16:
            raise Unsuitable
        m, n = matrix.shape
        return cls(m, n, scale, exponents, to_chunks(matrix, scale, exponents))

    @property
    def band_rows(self) -> npt.NDArray[np.int64]:
        """Rows in every band: CHUNK, or fewer in the last."""
        return np.minimum(CHUNK, self.m - np.arange(0, self.m, CHUNK))
