"""Symmetric matrices as their upper triangles, row by row: [0, 0], [0, 1], ..., [1, 1], [1, 2], ...

Half of the bytes, and nothing that could contradict its mirror image. Row by row in a loop: the index arrays that
`numpy.triu_indices` makes would take four times the memory of the matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[Any]


def triangle_size(n: int) -> int:
    """Elements of the upper triangle of an n x n matrix."""
    return n * (n + 1) // 2


def pack(matrix: Matrix) -> Matrix:
    """The upper triangle [n(n+1)/2] of a symmetric matrix [n, n], of the same type."""
    n = len(matrix)
    packed = np.empty(triangle_size(n), matrix.dtype)
    start = 0
    for i in range(n):
        packed[start : start + n - i] = matrix[i, i:]
        start += n - i
    return packed


def unpack(packed: Matrix, n: int) -> Matrix:
    """The symmetric matrix [n, n] of an upper triangle [n(n+1)/2]."""
    matrix = np.empty((n, n), packed.dtype)
    start = 0
    for i in range(n):
        matrix[i, i:] = matrix[i:, i] = packed[start : start + n - i]
        start += n - i
    return matrix


def diagonal_places(n: int) -> npt.NDArray[np.int64]:
    """[n] where the diagonal's elements lie in a packed triangle."""
    i = np.arange(n, dtype=np.int64)
    return i * n - i * (i - 1) // 2
