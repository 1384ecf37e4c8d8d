"""Decoding lines of a segment straight into a matrix: levels, entropy code and steps in one compiled loop.

What is written are weights, or, where weights are sums over several points, the points themselves: the type of the matrix
says which.

A few lines at a time, so that their levels and points stay in the processor's nearest caches; and without going back to
the interpreter, for which threads would wait for each other.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from nwc_core.dequantise import Weights, scale
from nwc_core.kernels import kernel
from nwc_core.prior import LEVELS
from nwc_core.rans import Decoder
from nwc_core.rans_kernels import decode_steps
from nwc_core.scales import fill_levels

# What lines are decoded to: weights, or points.
Lines = Weights | npt.NDArray[np.int32]
_PIECE_WEIGHTS = 1 << 15  # decoded at a time: 160 KB of levels and points


def _write(points, row_step, column_factor, out):  # type: ignore[no-untyped-def]
    """Write points, or the weights that they stand for; compiled code only."""
    raise NotImplementedError


@overload(_write)
def _write_as(points, row_step, column_factor, out):  # type: ignore[no-untyped-def]
    def as_points(points, row_step, column_factor, out):  # type: ignore[no-untyped-def]
        for i in range(points.shape[0]):
            for j in range(points.shape[1]):
                out[i, j] = points[i, j]

    def as_weights(points, row_step, column_factor, out):  # type: ignore[no-untyped-def]
        scale(points, row_step, column_factor, out)

    return as_points if out.dtype == types.int32 else as_weights


@kernel
def _decode_lines(out, outer, inner, line_step, factor, level, points, *stream):  # type: ignore[no-untyped-def]
    """Returns the number of lines, or the error that `decode_steps` met."""
    for first in range(0, out.shape[0], level.shape[0]):
        last = min(first + level.shape[0], out.shape[0])
        some_level, some_points = level[: last - first], points[: last - first]
        fill_levels(outer[first:last], inner, LEVELS - 1, some_level)
        done = decode_steps(some_points.reshape(some_points.size), some_level.reshape(some_level.size), *stream)
        if done < 0:
            return done
        _write(some_points, line_step[first:last], factor, out[first:last])  # type: ignore[no-untyped-call]
    return out.shape[0]


@kernel
def _decode_tiles(out, rows, columns, row_step, factor, level, points, fewest, lanes, *stream):  # type: ignore[no-untyped-def]
    """Tiles of `lanes` columns each; returns 0, or the error that `decode_steps` met."""
    trellis = stream[-2]
    for left in range(0, columns.size, lanes):
        right = left + lanes
        for lane in range(trellis.size):
            trellis[lane] = 0
        for first in range(0, rows.size, level.shape[0]):
            last = min(first + level.shape[0], rows.size)
            some_level, some_points = level[: last - first], points[: last - first]
            fill_levels(rows[first:last], columns[left:right], LEVELS - 1, some_level)
            flat_points, flat_level = some_points.reshape(some_points.size), some_level.reshape(some_level.size)
            done = decode_steps(flat_points, flat_level, fewest, lanes, *stream)
            if done < 0:
                return done
            part = out[first:last, left:right]
            _write(some_points, row_step[first:last], factor[left:right], part)  # type: ignore[no-untyped-call]
    return 0


def whole_steps(lines: int, n: int, lanes: int) -> int:
    """About so many lines of n points, as whole steps of all lanes."""
    least = lanes // math.gcd(lanes, n)
    return max(least, lines // least * least)


def decode_lines(
    decoder: Decoder,
    out: Lines,
    levels: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    steps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> None:
    """Decode the next lines of a segment.

    Args:
        decoder: of the segment, behind whole steps of all its lanes.
        out: [lines, n] to fill, weights or points; in whole steps, unless these lines are the last ones.
        levels: [lines] and [n], whose sums are the levels before clamping.
        steps: [lines] and [n], whose products are the steps; points need none.

    Raises:
        FormatError: the stream is damaged, or was coded with other tables.
    """
    count, n = out.shape
    lines = min(count, whole_steps(_PIECE_WEIGHTS // n, n, decoder.lanes))
    level, points = np.empty((lines, n), np.uint8), np.empty((lines, n), np.int32)
    decoder.run(_decode_lines, out, *levels, *steps, level, points)


def decode_tiles(
    decoder: Decoder,
    out: Lines,
    levels: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    steps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> None:
    """The same for a whole segment scanned in tiles: `out` is [m, columns], rest as of its rows and columns."""
    m, columns = out.shape
    whole = columns - columns % decoder.lanes
    for part, lanes in ((slice(0, whole), decoder.lanes), (slice(whole, columns), columns - whole)):
        if part.start == part.stop:
            continue
        lines = min(m, max(1, _PIECE_WEIGHTS // lanes))
        level, points = np.empty((lines, lanes), np.uint8), np.empty((lines, lanes), np.int32)
        axes = (levels[0], levels[1][part], steps[0], steps[1][part])
        decoder.run(_decode_tiles, out[:, part], *axes, level, points, lanes=lanes)
