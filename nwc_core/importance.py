"""How much the errors of a matrix's weights matter: to the loss  sum_i rows_i e_i H e_i' , e_i the error of row i.

H [n, n] is the second moment of the layer's inputs (GPTQ, LDLQ), rows [m] how much each output counts. Quantising column by
column with feedback (`nwc_core.feedback`) turns the loss into a sum over columns with weights d, the diagonal of D in
H = U D U'. At equal slope of rate and distortion every weight's error then costs the same: steps go with 1 / sqrt(rows_i d_j)
(water-filling).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nwc_core.blas import one_thread
from nwc_core.errors import UsageError
from nwc_core.prior import OCTAVE
from nwc_core.synthesis import MAX_STEP_RANGE
from nwc_core.triangular import upper_root

if TYPE_CHECKING:
    import torch

DISTORTION = 0.28  # mean squared error of the search in units of step^2
DAMPING = 0.02

Analyse = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Importance:
    """Of the errors of one matrix [m, n].

    Attributes:
        hessian: [n, n] float32, symmetric, positive semi-definite; None for the identity.
        rows: [m] float32, positive; None for ones.
    """

    hessian: npt.NDArray[np.float32] | None = None
    rows: npt.NDArray[np.float32] | None = None

    def of_columns(self, analyse: Analyse) -> Importance:
        """What it is after an orthonormal transform of the columns, `analyse`: W -> W T, H -> T' H T."""
        if self.hessian is None:
            return self
        with one_thread():
            return replace(self, hessian=analyse(np.ascontiguousarray(analyse(self.hessian).T)))

    def of_rows(self, analyse: Analyse) -> Importance:
        """What it is after a transform of the rows, W -> T' W, as far as single rows can say: the diagonal."""
        if self.rows is None:
            return self
        with one_thread():
            half = analyse(np.diag(np.sqrt(self.rows)).astype(np.float32))  # T' F^(1/2), whose rows' squares add up
        return replace(self, rows=np.square(half).sum(1))


def importances(
    shape: tuple[int, int, int], hessian: torch.Tensor | None, rows: torch.Tensor | None
) -> list[Importance | None]:
    """Of each matrix of a tensor.

    Args:
        shape: (matrices, m, n).
        hessian: [n, n] or [matrices, n, n].
        rows: [m] or [matrices, m].

    Raises:
        UsageError: another shape, or not finite, or rows that are not positive.
    """
    count, m, n = shape
    hessians, weights = _checked(hessian, "hessian", (n, n), count), _checked(rows, "rows", (m,), count)
    if weights is not None and not (weights > 0).all():
        raise UsageError("rows: found a weight that is not positive; wanted all above 0")
    if hessians is None and weights is None:
        return [None] * count
    return [
        Importance(None if hessians is None else hessians[index], None if weights is None else weights[index])
        for index in range(count)
    ]


def _checked(
    given: torch.Tensor | None, what: str, shape: tuple[int, ...], count: int
) -> npt.NDArray[np.float32] | None:
    """[count, *shape] float32, contiguous."""
    if given is None:
        return None
    if tuple(given.shape) not in (shape, (count, *shape)):
        wanted = f"{list(shape)}" if count == 1 else f"{list(shape)} or {[count, *shape]}"
        raise UsageError(f"{what}: found shape {list(given.shape)}; wanted {wanted}")
    values: npt.NDArray[np.float32] = given.detach().cpu().float().numpy()
    if not np.isfinite(values).all():
        raise UsageError(f"{what}: found NaN or infinity; wanted finite numbers")
    return np.broadcast_to(values, (count, *shape))


@dataclass(frozen=True, eq=False)
class Factor:
    """H, damped, as quantising with feedback needs it.

    Attributes:
        upper: [n, n] U of H = U D U', unit upper triangular.
        weights: [n] d, the diagonal of D.
        fed: [n] variance of what is fed back to a column, in units of the distortion DISTORTION * step^2 of that column.
    """

    upper: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float64]
    fed: npt.NDArray[np.float64]


_last: dict[tuple[str, float, float], Factor] = {}  # one, of the H that was factorised last


def factorise(hessian: npt.NDArray[np.float32], bits: float, damping: float = DAMPING) -> Factor:
    """Damp and factorise H. The last factor is kept: a tensor in several blocks asks for the same again and again.

    That takes n^3 operations where coding a block takes as many as it has weights: of 11,008 columns, ten times as long.

    Directions in which the inputs hardly vary would take any error: the feedback pushes errors there, and coding the
    errors on top of the weights costs bits. They are damped so that errors stay below the weights' own variance: their
    covariance is D H^-1, D the distortion in units of d step^2, which at `bits` per weight is  geo(d) var 4^-bits .

    Args:
        hessian: [n, n].
        bits: rate to be coded at.
        damping: least share of the mean diagonal that is added to it.

    Raises:
        UsageError: not positive semi-definite, by far.
    """
    content = hashlib.sha256(np.ascontiguousarray(hessian).data).hexdigest()
    # From this rate on the least share is always the larger (see below: geo(d) <= 1 + damping), and the rate does not matter.
    matters = 0.5 * math.log2((1 + damping) / damping) + 1e-3 if damping > 0 else math.inf
    key = (content, min(bits, matters), damping)
    if key not in _last:
        _last.clear()  # first: two of them might not fit
        _last[key] = _factorise(hessian, bits, damping)
    return _last[key]


def _factorise(hessian: npt.NDArray[np.float32], bits: float, damping: float) -> Factor:
    mean = np.float32(np.diagonal(hessian).mean(dtype=np.float64))
    if mean > 0:
        h = hessian / mean  # far from the ends of float32
    else:  # of inputs that never were anything but zero
        h, mean = hessian + np.eye(len(hessian), dtype=np.float32), np.float32(1)
    diagonal = np.einsum("ii->i", h)
    ridge = damping * float(diagonal.mean())
    diagonal += np.float32(ridge)
    with one_thread():
        root, inverse = upper_root(h)
        needed = float(np.exp(2 * np.log(np.diagonal(root)).mean(dtype=np.float64))) * 4.0**-bits
        if needed > ridge:
            diagonal += np.float32(needed - ridge)
            root, inverse = upper_root(h)
        scale = np.diagonal(root).copy()
        # The diagonal of H^-1, times d, is the variance of errors in units of the distortion.
        errors = np.square(scale) * np.einsum("ij,ij->j", inverse, inverse)
    weights = np.square(scale, dtype=np.float64) * float(mean)
    return Factor(root / scale, weights, np.maximum(errors.astype(np.float64) - 1, 0))


def exponents(weights: npt.NDArray[np.float64], reach: int = MAX_STEP_RANGE // 2) -> npt.NDArray[np.int32]:
    """Step exponents, in eighths of an octave, around zero: steps go with 1 / sqrt(weights), up to `reach` either way."""
    levels = -0.5 * OCTAVE * np.log2(np.maximum(weights, weights.max() * 2.0**-100))
    result: npt.NDArray[np.int32] = np.clip(np.rint(levels - np.median(levels)), -reach, reach).astype(np.int32)
    return result
