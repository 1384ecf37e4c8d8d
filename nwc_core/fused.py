"""Decoding a segment straight to weights, where nothing mixes them: levels, entropy code and steps in one compiled loop.

A few lines at a time, so that their levels and points stay in the processor's nearest caches; and without going back to
the interpreter, for which threads would wait for each other.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nwc_core.dequantise import Weights, scale
from nwc_core.kernels import kernel
from nwc_core.prior import LEVELS
from nwc_core.rans import Decoder
from nwc_core.rans_kernels import decode_steps
from nwc_core.scales import fill_levels

_PIECE_WEIGHTS = 1 << 15  # decoded at a time: 160 KB of levels and points


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
        scale(some_points, line_step[first:last], factor, out[first:last])
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
            scale(some_points, row_step[first:last], factor[left:right], out[first:last, left:right])
    return 0


def decode_tiles(
    decoder: Decoder,
    out: Weights,
    levels: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    steps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> None:
    """The same for a segment scanned in tiles: `out` is [m, columns]; levels and steps are those of its rows and columns."""
    m, columns = out.shape
    whole = columns - columns % decoder.lanes
    for part, lanes in ((slice(0, whole), decoder.lanes), (slice(whole, columns), columns - whole)):
        if part.start == part.stop:
            continue
        lines = min(m, max(1, _PIECE_WEIGHTS // lanes))
        level, points = np.empty((lines, lanes), np.uint8), np.empty((lines, lanes), np.int32)
        axes = (levels[0], levels[1][part], steps[0], steps[1][part])
        decoder.run(_decode_tiles, out[:, part], *axes, level, points, lanes=lanes)
    decoder.finish()


def decode_lines(
    decoder: Decoder,
    out: Weights,
    levels: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    steps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> None:
    """Decode a whole segment.

    Args:
        decoder: of the segment, at its start.
        out: [lines, n] to fill, along the scan: rows, or columns as the rows of a transposed array.
        levels: [lines] and [n], whose sums are the levels before clamping.
        steps: [lines] and [n], whose products are the steps.

    Raises:
        FormatError: the stream is damaged, or was coded with other tables.
    """
    count, n = out.shape
    whole_steps = decoder.lanes // math.gcd(decoder.lanes, n)  # so many lines, as a piece must hold
    lines = min(count, max(whole_steps, _PIECE_WEIGHTS // n // whole_steps * whole_steps))
    level, points = np.empty((lines, n), np.uint8), np.empty((lines, n), np.int32)
    decoder.run(_decode_lines, out, *levels, *steps, level, points)
    decoder.finish()
