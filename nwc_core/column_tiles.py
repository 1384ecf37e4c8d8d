"""The scan of calibrated matrices: tiles of as many neighbouring columns as the entropy coder has lanes, row by row.

Errors are fed back from column to column, so the trellis runs down one column after the other. A lane of its own for each
column of a tile lets a decoder work on all of them at once, whatever the number of rows, and write a tile's rows as they
come. The last tile has the columns, and so the lanes, that are left.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Scalar = TypeVar("_Scalar", bound=np.generic)


def to_tiles(lines: npt.NDArray[_Scalar], lanes: int) -> npt.NDArray[_Scalar]:
    """Flat elements of columns [columns, m] in the order of the scan."""
    columns, m = lines.shape
    whole = columns - columns % lanes
    body = lines[:whole].reshape(-1, lanes, m).transpose(0, 2, 1).reshape(-1)
    return np.concatenate([body, lines[whole:].T.reshape(-1)])


def from_tiles(flat: npt.NDArray[_Scalar], m: int, lanes: int) -> npt.NDArray[_Scalar]:
    """The inverse: columns [columns, m]."""
    columns = flat.size // m
    whole = columns - columns % lanes
    body = flat[: whole * m].reshape(-1, m, lanes).transpose(0, 2, 1).reshape(-1, m)
    return np.concatenate([body, flat[whole * m :].reshape(m, columns - whole).T])
