"""An ideal entropy-coded scalar quantiser on normalised rows: a bound for codecs of the published kind, not a codec.

Rows are divided by their root mean square, rounded to multiples of one step, and replaced by the mean of all weights that
share an index. The rate is the entropy of the indices of the whole tensor: no header, no scales, no tables, no byte
written. Entropy and error are corrected for what they are underestimated by in small tensors, where tables and means
would be made of the very weights that they are tried on.

A learned transform whose latents are rounded one by one can beat it only by what it decorrelates; on weights without
structure it converges to it from above. So it stands in for a reference that was trained for too short a time.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from nwc_core.matrices import Layout
from nwc_workflows.bench.measure import Measurement

NAME = "ideal-scalar"
_FINEST, _COARSEST = -12.0, 4.0  # log2 of the step over the root mean square
_BISECTIONS = 20  # of that range: to a hundred thousandth of an octave


def ideal_scalar(weight: torch.Tensor, bits: float, layout: Layout) -> Measurement:
    """Entropy and mean squared error at `bits` per weight; the step is solved for."""
    rows = layout.to_matrices(weight.float().numpy())
    rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    scale = np.sqrt(np.square(rows).mean(axis=1, keepdims=True))
    normalised = np.divide(rows, scale, out=np.zeros_like(rows), where=scale > 0)
    low, high = _FINEST, _COARSEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        entropy, _, _ = _quantise(normalised, 2.0**middle)
        low, high = (middle, high) if entropy > bits else (low, middle)
    entropy, cells, decoded = _quantise(normalised, 2.0**high)
    error = float(np.square((decoded - normalised) * scale).sum())
    return Measurement(wanted=bits, bits=entropy, mse=error / max(1, rows.size - cells))


def _quantise(values: npt.NDArray[np.float64], step: float) -> tuple[float, int, npt.NDArray[np.float64]]:
    """(entropy in bits per value, cells in use, each value replaced by the mean of its cell)."""
    index = np.rint(values / step).astype(np.int64).reshape(-1)
    index -= index.min()
    counts = np.bincount(index)
    means = np.bincount(index, values.reshape(-1)) / np.maximum(counts, 1)
    seen = counts[counts > 0]
    entropy = math.log2(index.size) - float((seen * np.log2(seen)).sum()) / index.size
    entropy += (seen.size - 1) / (2 * math.log(2) * index.size)  # Miller and Madow
    return entropy, seen.size, means[index].reshape(values.shape)
