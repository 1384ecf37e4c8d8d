"""The scan of calibrated matrices: down the columns, a group of neighbouring columns for each lane of the entropy coder.

Errors are fed back from column to column, so the trellis runs down one column after the other. A lane of its own for each
group lets a decoder work on all groups at once, whatever the number of rows. Groups differ by one column at most, the
longer ones first: the last column of those is coded with as many lanes as there are of them.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Scalar = TypeVar("_Scalar", bound=np.generic)


def group_starts(columns: int, lanes: int) -> npt.NDArray[np.int64]:
    """The first column of each group of a segment; a group that has none starts where the segment ends."""
    size, longer = divmod(columns, lanes)
    group = np.arange(lanes)
    return group * size + np.minimum(group, longer)


def to_groups(lines: npt.NDArray[_Scalar], lanes: int) -> npt.NDArray[_Scalar]:
    """Flat elements of columns [columns, m] in the order of the scan: step by step down the rows, groups side by side."""
    size, longer = divmod(len(lines), lanes)
    starts = group_starts(len(lines), lanes)
    body = lines[starts[None, :] + np.arange(size)[:, None]]  # [size, lanes, m]
    last = lines[starts[:longer] + size]
    return np.concatenate([body.transpose(0, 2, 1).reshape(-1), last.T.reshape(-1)])


def from_groups(flat: npt.NDArray[_Scalar], m: int, lanes: int) -> npt.NDArray[_Scalar]:
    """The inverse: columns [columns, m]."""
    size, longer = divmod(flat.size // m, lanes)
    lines = np.empty((flat.size // m, m), flat.dtype)
    starts = group_starts(len(lines), lanes)
    split = size * m * lanes
    lines[starts[None, :] + np.arange(size)[:, None]] = flat[:split].reshape(size, m, lanes).transpose(0, 2, 1)
    lines[starts[:longer] + size] = flat[split:].reshape(m, longer).T
    return lines


def tail_points(columns: int, m: int, lanes: int) -> tuple[int, int]:
    """(how many points at the end of a segment are coded with fewer lanes, that number of lanes)."""
    longer = columns % lanes
    return longer * m, max(1, longer)
