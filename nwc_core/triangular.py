"""The triangular root of a matrix and the root's inverse, together: nearly all of it products of matrices.

A matrix by halves, [[A, B], [B', C]] = R R' with R = [[P, Q], [0, S]]: S is the root of C, Q = B S'^-1, P the root of A - Q Q',
and R^-1 = [[P^-1, -P^-1 Q S^-1], [0, S^-1]].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.errors import UsageError

_LEAF = 128  # rows that are factorised at once

Floats = npt.NDArray[np.floating]


def upper_root(h: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(R, R^-1), upper triangular, with h = R R'.

    Args:
        h: [n, n] symmetric. Where float32 finds no root, which may be as soon as the least eigenvalue is 10^-6 of the
            diagonal, float64 does.

    Raises:
        UsageError: h is not positive definite.
    """
    try:
        return _by_halves(h)
    except np.linalg.LinAlgError:
        pass
    try:
        root, inverse = _by_halves(h.astype(np.float64))
    except np.linalg.LinAlgError:
        raise UsageError(
            "hessian: found directions of negative weight; wanted a positive semi-definite matrix"
        ) from None
    return root.astype(np.float32), inverse.astype(np.float32)


def _by_halves(h: Floats) -> tuple[Floats, Floats]:
    n = len(h)
    root, inverse = np.zeros_like(h), np.zeros_like(h)
    if n <= _LEAF:
        root[:] = np.linalg.cholesky(h[::-1, ::-1])[::-1, ::-1]  # which gives lower triangles
        inverse[:] = np.triu(np.linalg.inv(root))
        return root, inverse
    low, high = slice(0, n // 2), slice(n // 2, n)
    root[high, high], inverse[high, high] = _by_halves(h[high, high])
    root[low, high] = h[low, high] @ inverse[high, high].T
    root[low, low], inverse[low, low] = _by_halves(h[low, low] - root[low, high] @ root[low, high].T)
    inverse[low, high] = -inverse[low, low] @ root[low, high] @ inverse[high, high]
    return root, inverse
